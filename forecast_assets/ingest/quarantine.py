"""Refused files: kept aside, each with the reason beside it, so that the landing zone holds only what may be loaded.

<landing zone>/quarantine/<first digits of the content hash>/train.csv
<landing zone>/quarantine/<first digits of the content hash>/train.csv.reason.txt
"""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from forecast_assets.ingest.files import QUARANTINE, DropRefusedError, SentFile, signature_of

KEPT = 20  # refused contents


def quarantine(refusal: DropRefusedError, *, run_id: str) -> Path | None:
    """Put the file that was refused into quarantine, with the reason beside it. Returns where it is now.

    A file that is bad by itself is moved. One that is good but does not agree with the others is copied: it stays in
    the landing zone, to be loaded when the other part comes. A file that the sender has replaced in the meantime stays
    too. Of the places in quarantine, the ``KEPT`` newest stay. Returns None, and changes nothing, where the refusal is
    about no single file, the folder is read-only, or the file that was refused is not there any more.
    """
    sent = refusal.sent
    if sent is None or not os.access(sent.path.parent, os.W_OK):
        return None
    place = sent.path.parent / QUARANTINE / sent.content_hash[:12]
    place.mkdir(parents=True, exist_ok=True)
    kept = place / sent.path.name
    try:
        is_kept = _move(sent, kept) if refusal.bad_by_itself else _copy(sent, kept)
    except FileNotFoundError:  # the sender has taken it back
        is_kept = False
    if not is_kept:
        if not any(place.iterdir()):
            place.rmdir()
        return None
    reason = place / f"{sent.path.name}.reason.txt"
    reason.write_text(f"{refusal}\n\nRefused {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC by run {run_id}.\n")
    os.utime(place)
    _remove_oldest(place.parent)
    return kept


def _move(sent: SentFile, kept: Path) -> bool:
    """Move the file; if it is not the one that was read, put it back, unless a still newer one took its place."""
    os.replace(sent.path, kept)
    if signature_of(kept) != sent.signature:
        try:
            os.link(kept, sent.path)
        except FileExistsError:
            return True
        kept.unlink()
        return False
    return True


def _copy(sent: SentFile, kept: Path) -> bool:
    """Copy the file; nothing is kept of one that is not, or not any more, the one that was read."""
    copy = kept.with_name(f".{kept.name}.copy")
    try:
        shutil.copy2(sent.path, copy)
        unchanged = signature_of(sent.path) == sent.signature
        if unchanged:
            copy.replace(kept)
    finally:
        copy.unlink(missing_ok=True)
    return unchanged


def _remove_oldest(folder: Path) -> None:
    for place in sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime_ns)[:-KEPT]:
        shutil.rmtree(place, ignore_errors=True)
