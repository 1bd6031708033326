"""Reading a file of a drop as it comes: plain, gzip or zip, any line ending, with or without a byte-order mark."""

import gzip
import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

MAX_BYTES = 8 * 2**30
_CHUNK = 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class DropRefusedError(ValueError):
    """The drop cannot be loaded; the message names the file, the place, the value and what to do."""


@dataclass(frozen=True, slots=True)
class RawFile:
    """One file of a drop, with the line endings made ``\\n``.

    Attributes:
        name: the logical name, for example ``train.csv``, whatever the file was packed in.
        path: where it was read from.
        text: the content, unpacked, without byte-order mark, lines ended by ``\\n``.
        content_hash: SHA-256 of ``text``. A zipped or re-saved copy of the same table is the same content.
        ends_with_newline: False where the last line may have been cut off.
    """

    name: str
    path: Path
    text: bytes
    content_hash: str
    ends_with_newline: bool


def read_file(folder: Path, name: str) -> RawFile:
    """Read ``name`` or ``name.gz`` or ``name.zip`` from ``folder``.

    Raises:
        DropRefusedError: no such file, more than one, empty, not readable, or not text.
    """
    path = _locate(folder, name)
    try:
        content = _unpack(path, name)
    # zipfile raises RuntimeError for an encrypted member, and a subclass of it for a compression it does not know.
    except (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise DropRefusedError(f"{path.name} cannot be read ({error}): send {name} again") from error
    content = content.removeprefix(_BYTE_ORDER_MARK)
    if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if not content.strip():
        raise DropRefusedError(f"{path.name} is empty: send the whole file again")
    if b"\0" in content[:_CHUNK]:
        raise DropRefusedError(f"{path.name} is not text: expected a comma-separated file in UTF-8")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DropRefusedError(
            f"{path.name} line {line:,}: byte {content[error.start]:#04x} is not UTF-8: save the file as UTF-8"
        ) from error
    ends_with_newline = content.endswith(b"\n")
    content = content.rstrip(b"\n") + b"\n"
    return RawFile(name, path, content, hashlib.sha256(content).hexdigest(), ends_with_newline)


def _locate(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise DropRefusedError(f"the landing zone {folder} is not a folder: create it, or set LANDING_DIR to one")
    found = [folder / (name + suffix) for suffix in ("", ".gz", ".zip") if (folder / (name + suffix)).is_file()]
    if not found:
        present = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise DropRefusedError(f"{name} is missing in the landing zone {folder} (found there: {present})")
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DropRefusedError(f"{names} are both in the landing zone {folder}: keep the one to be loaded")
    return found[0]


def _unpack(path: Path, name: str) -> bytes:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic.startswith(b"\x1f\x8b"):
        with gzip.open(path, "rb") as stream:
            return _read_bounded(stream, path)
    if magic.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX")]
            if len(members) != 1:
                raise DropRefusedError(f"{path.name} holds {len(members)} files: expected {name} alone")
            with archive.open(members[0]) as stream:
                return _read_bounded(stream, path)
    with path.open("rb") as stream:
        return _read_bounded(stream, path)


def _read_bounded(stream: IO[bytes] | gzip.GzipFile, path: Path) -> bytes:
    # A few kilobytes of zip can unpack to petabytes: stop at the bound instead of filling the memory.
    parts: list[bytes] = []
    size = 0
    while part := stream.read(_CHUNK):
        size += len(part)
        if size > MAX_BYTES:
            raise DropRefusedError(f"{path.name} unpacks to more than {MAX_BYTES:,} bytes: it was not read further")
        parts.append(part)
    return b"".join(parts)
