"""What lies in the landing zone, and whether it is a whole drop: looked at again and again, read only when it changes.

A file is complete when it has been the same (inode, size, time of change) in two looks, and ends as a whole file
does: an archive with its directory or checksum, a CSV with a line end. One that does not end so may still be being
written by a slow sender, or may have been sent like that: it is given ``PATIENCE`` seconds without a change, and is
then left to validation, which says what is wrong with it. A sender who pauses for longer should write under another
name, and rename the file when it is complete.
"""

import gzip
import hashlib
import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from forecast_assets.ingest.drop import FILES
from forecast_assets.ingest.files import (
    DropRefusedError,
    Signature,
    UnreadableError,
    candidates,
    content_hash_of,
    most_unpacked,
    signature_of,
)

PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was when it last changed.

    Attributes:
        signature: what tells a change without reading.
        since: when it was first seen like this, in seconds since 1970.
        content_hash: empty until the file is complete.
    """

    signature: Signature
    since: float
    content_hash: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the landing zone.

    Attributes:
        files: every file of a drop that is there, by its name.
        waiting_for: why there is no whole drop yet; empty if there is.
    """

    files: dict[str, Seen] = field(default_factory=dict)
    waiting_for: str = ""

    @property
    def contents(self) -> dict[str, str]:
        """The content hash of each part, whatever it is packed in."""
        return {_part(name): seen.content_hash for name, seen in sorted(self.files.items())}

    @property
    def identity(self) -> str:
        """One hash for the contents together: the same for the same drop, copied, touched or packed again."""
        pairs = sorted((_part(name), seen.content_hash) for name, seen in self.files.items())
        return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()

    def to_json(self) -> str:
        """The files, to be remembered until the next look."""
        return json.dumps({name: [*seen.signature, seen.since, seen.content_hash] for name, seen in self.files.items()})

    @classmethod
    def from_json(cls, text: str | None) -> "Look":
        """What ``to_json`` wrote; an empty look for None."""
        remembered = json.loads(text or "{}")
        return cls(
            {
                name: Seen(Signature(inode, size, mtime), since, content)
                for name, (inode, size, mtime, since, content) in remembered.items()
            }
        )


def look(folder: Path, last: Look, now: float) -> Look:
    """Look at ``folder`` again. A file that has not changed since the ``last`` look is not opened.

    Args:
        now: the present time in seconds since 1970.
    """
    found: dict[str, Seen] = {}
    waiting = ""
    for name in FILES:
        try:
            for path in candidates(folder, name):
                try:
                    found[path.name], reason = _look_at(path, name, last.files.get(path.name), now)
                except FileNotFoundError:  # it was there a moment ago
                    reason = f"{path.name} has just gone"
                waiting = waiting or reason
        except PermissionError as error:
            waiting = waiting or str(UnreadableError(Path(error.filename)))
    missing = [name for name in FILES if name not in {_part(each) for each in found}]
    if len(missing) == len(FILES):
        waiting = waiting or f"the landing zone {folder} holds none of {', '.join(FILES)}"
    elif missing:
        waiting = waiting or f"the drop is not whole: {' and '.join(missing)} not there yet"
    return Look(found, waiting)


def _look_at(path: Path, name: str, last: Seen | None, now: float) -> tuple[Seen, str]:
    """The file as it is now, and what it still has to wait for."""
    signature = signature_of(path)
    if last is None or last.signature != signature:
        return Seen(signature, now), f"{path.name} is new or has changed: taken up when it stays as it is"
    if last.content_hash:
        return last, ""
    if not _ends_like_a_whole_file(path) and now - last.since < PATIENCE:
        return last, f"{path.name} does not end like a whole file: given {PATIENCE:.0f} s to be completed"
    try:
        content_hash = content_hash_of(path, name)
    except DropRefusedError:  # it changed while it was read
        return Seen(signature_of(path), now), f"{path.name} is being written"
    return Seen(signature, last.since, content_hash), ""


def _ends_like_a_whole_file(path: Path) -> bool:
    with path.open("rb") as file:
        magic = file.read(4)
        try:
            if magic.startswith(b"PK\x03\x04"):
                with zipfile.ZipFile(path) as archive:
                    return bool(archive.infolist())
            if magic.startswith(b"\x1f\x8b"):
                return _unpacks_or_is_too_long(path)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile):
            return False
        file.seek(0, 2)
        if file.tell() == 0:
            return False
        file.seek(-1, 2)
        return file.read(1) in b"\r\n"


def _unpacks_or_is_too_long(path: Path) -> bool:
    """The checksum at the end is right, or it is not worth while to read so far: validation refuses such a file."""
    left = most_unpacked(path)
    with gzip.open(path) as stream:
        while left >= 0 and (part := stream.read(2**20)):
            left -= len(part)
    return True


def _part(file_name: str) -> str:
    return file_name.removesuffix(".gz").removesuffix(".zip")
