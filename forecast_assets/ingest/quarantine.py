"""Refused files: kept aside, each with the reason beside it, so that the landing zone holds only what may be loaded.

<landing zone>/quarantine/<first digits of the content hash>/train.csv
<landing zone>/quarantine/<first digits of the content hash>/train.csv.reason.txt
"""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

from forecast_assets.ingest.files import QUARANTINE, DropRefusedError, SentFile, signature_of


def quarantine(refusal: DropRefusedError, *, run_id: str) -> Path | None:
    """Put the file that was refused into quarantine, with the reason beside it. Returns where it is now.

    A file that is bad by itself is moved. One that is good but does not agree with the others is copied: it stays in
    the landing zone, to be loaded when the other part comes. A file that the sender has replaced in the meantime stays
    too. Returns None, and changes nothing, where the refusal is about no single file or the folder is read-only.
    """
    sent = refusal.sent
    if sent is None or not os.access(sent.path.parent, os.W_OK):
        return None
    place = sent.path.parent / QUARANTINE / sent.content_hash[:12]
    place.mkdir(parents=True, exist_ok=True)
    kept = place / sent.path.name
    if refusal.bad_by_itself:
        _move(sent, kept)
    else:
        shutil.copy2(sent.path, kept)
    reason = place / f"{sent.path.name}.reason.txt"
    reason.write_text(f"{refusal}\n\nRefused {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC by run {run_id}.\n")
    return kept


def _move(sent: SentFile, kept: Path) -> None:
    """Move the file; if it is not the one that was read, put it back, unless a still newer one took its place."""
    os.replace(sent.path, kept)
    if signature_of(kept) != sent.signature:
        try:
            os.link(kept, sent.path)
        except FileExistsError:
            return
        kept.unlink()
