"""Reading a file of a drop as it comes: plain, gzip or zip, any line ending, with or without a byte-order mark."""

import gzip
import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

QUARANTINE = "quarantine"  # the folder of refused files, in the landing zone
MAX_BYTES = 8 * 2**30
# Tables of numbers shrink to a tenth. What unpacks to far more is made to fill the memory.
MAX_RATIO = 200
ALWAYS_ALLOWED_BYTES = 64 * 2**20
_CHUNK = 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Signature(NamedTuple):
    """What changes, almost always, when a file's content does; read without opening it."""

    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file as it was sent, good or bad.

    Attributes:
        name: the logical name, for example ``train.csv``, whatever the file was packed in.
        path: where it lies.
        signature: of the file as it was read.
        content_hash: SHA-256 of its text, or of its bytes where they could not be read as text.
        rows: lines after the header; None where they could not be counted.
    """

    name: str
    path: Path
    signature: Signature
    content_hash: str
    rows: int | None = None


class DropRefusedError(ValueError):
    """The drop cannot be loaded; the message names the file, the place, the value and what to do.

    Attributes:
        sent: the file that the message is about; None where one is missing or there is more than one.
        bad_by_itself: no other file of the drop can put it right.
    """

    sent: SentFile | None = None
    bad_by_itself = False


class UnreadableError(DropRefusedError):
    """This process has no right to read a file or folder. It stays where it is: what is in it may be good."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} may not be read by the user who runs this (number {os.geteuid()}): give it the right")


@contextmanager
def refusals_concern(sent: SentFile, *, bad_by_itself: bool) -> Iterator[None]:
    """Say of a refusal raised in the ``with`` block which file it is about."""
    try:
        yield
    except DropRefusedError as refusal:
        refusal.sent, refusal.bad_by_itself = sent, bad_by_itself
        raise


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file of a drop, with the line endings made ``\\n``.

    Attributes:
        name: the logical name, for example ``train.csv``, whatever the file was packed in.
        path: where it was read from.
        signature: of the file as it was read.
        text: the content, unpacked, without byte-order mark, lines ended by ``\\n``.
        content_hash: SHA-256 of ``text``. A zipped or re-saved copy of the same table is the same content.
        ends_with_newline: False where the last line may have been cut off.
    """

    name: str
    path: Path
    signature: Signature
    text: bytes
    content_hash: str
    ends_with_newline: bool


def read_file(folder: Path, name: str) -> RawFile:
    """Read ``name`` or ``name.gz`` or ``name.zip`` from ``folder``.

    Raises:
        DropRefusedError: no such file, more than one, empty, not readable, or not text.
    """
    path = locate(folder, name)
    signature = signature_of(path)
    try:
        file = _read_text(path, name, signature)
    except UnreadableError:
        raise
    except DropRefusedError as refusal:
        refusal.sent, refusal.bad_by_itself = SentFile(name, path, signature, _hash_of_bytes(path)), True
        _check_unchanged(path, signature)
        raise
    _check_unchanged(path, signature)
    return file


def content_hash_of(path: Path, name: str) -> str:
    """The identity of the file, which is ``name``, good or bad.

    Raises:
        DropRefusedError: it changed while it was read.
    """
    signature = signature_of(path)
    try:
        content_hash = _read_text(path, name, signature).content_hash
    except DropRefusedError:
        content_hash = _hash_of_bytes(path)
    _check_unchanged(path, signature)
    return content_hash


def _check_unchanged(path: Path, signature: Signature) -> None:
    if not path.exists() or signature_of(path) != signature:
        raise DropRefusedError(f"{path.name} changed while it was read: it is taken up when it is complete") from None


def _read_text(path: Path, name: str, signature: Signature) -> RawFile:
    try:
        content = _unpack(path, name)
    except PermissionError as error:
        raise UnreadableError(path) from error
    # zipfile raises RuntimeError for an encrypted member, and a subclass of it for a compression it does not know.
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise DropRefusedError(f"{path.name} cannot be read ({error}): send {name} again") from error
    content = content.removeprefix(_BYTE_ORDER_MARK)
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not content.strip():
        raise DropRefusedError(f"{path.name} is empty: send the whole file again")
    if (nul := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, nul) + 1
        raise DropRefusedError(
            f"{path.name} is not text: line {line:,} holds a NUL byte: expected a comma-separated file in UTF-8"
        )
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DropRefusedError(
            f"{path.name} line {line:,}: byte {content[error.start]:#04x} is not UTF-8: save the file as UTF-8"
        ) from error
    ends_with_newline = content.endswith(b"\n")
    content = content.rstrip(b"\n") + b"\n"
    return RawFile(name, path, signature, content, hashlib.sha256(content).hexdigest(), ends_with_newline)


def signature_of(path: Path) -> Signature:
    """The file's present signature."""
    status = path.stat()
    return Signature(status.st_ino, status.st_size, status.st_mtime_ns)


def candidates(folder: Path, name: str) -> list[Path]:
    """The files that may be ``name``, plain or packed. More than one is a mistake of the sender."""
    return [folder / (name + suffix) for suffix in ("", ".gz", ".zip") if (folder / (name + suffix)).is_file()]


def locate(folder: Path, name: str) -> Path:
    """The file that is ``name``, plain or packed.

    Raises:
        DropRefusedError: there is none, or more than one.
    """
    try:
        if not folder.is_dir():
            raise DropRefusedError(f"the landing zone {folder} is not a folder: create it, or set LANDING_DIR to one")
        found = candidates(folder, name)
        present = sorted(entry.name for entry in folder.iterdir())
    except PermissionError as error:
        raise UnreadableError(folder) from error
    if not found:
        quarantined = f"; refused ones are in {QUARANTINE}/, the reason beside each" if QUARANTINE in present else ""
        raise DropRefusedError(
            f"{name} is missing in the landing zone {folder} (found there: {', '.join(present[:8]) or 'nothing'}): "
            f"put it there{quarantined}"
        )
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DropRefusedError(f"{names} are both in the landing zone {folder}: keep the one to be loaded")
    return found[0]


def _unpack(path: Path, name: str) -> bytes:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(b"\x1f\x8b"):
        with gzip.open(path, "rb") as stream:
            return _read_bounded(stream, path, most_unpacked(path))
    if magic.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX")]
            if len(members) != 1:
                raise DropRefusedError(f"{path.name} holds {len(members)} files: expected {name} alone")
            with archive.open(members[0]) as stream:
                return _read_bounded(stream, path, most_unpacked(path))
    with path.open("rb") as stream:
        return _read_bounded(stream, path, MAX_BYTES)


def most_unpacked(path: Path) -> int:
    """Bytes of an archive's content that are read; a file that unpacks to more is refused."""
    return min(MAX_BYTES, max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * path.stat().st_size))


def _read_bounded(stream: IO[bytes] | gzip.GzipFile, path: Path, most: int) -> bytes:
    # A few kilobytes of zip can unpack to petabytes: stop at the bound instead of filling the memory.
    parts: list[bytes] = []
    size = 0
    while part := stream.read(_CHUNK):
        size += len(part)
        if size > most:
            raise DropRefusedError(f"{path.name} unpacks to more than {most:,} bytes: it was not read further")
        parts.append(part)
    return b"".join(parts)


def _hash_of_bytes(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"
