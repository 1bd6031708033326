"""Writing files so that a reader, or a crash, finds the old content or the new one."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_reference(path: Path, text: str) -> None:
    """Replace the small file ``path`` by ``text``. A file that holds it already is not touched."""
    if read_reference(path) == text:
        return
    with replacing(path) as temporary, temporary.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    _sync_directory(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write to, which takes the place of ``path`` at the end.

    It is of this writer alone, and nothing is left of it after an exception; what a killed writer has left goes with
    the next write to the same folder.
    """
    with staging_directory(path.parent) as staging:
        temporary = staging / path.name
        yield temporary
        temporary.replace(path)


def read_reference(path: Path) -> str | None:
    """The text written by ``write_reference``, or None where there is no such file."""
    return path.read_text(errors="replace").strip() if path.exists() else None


@contextmanager
def staging_directory(parent: Path) -> Iterator[Path]:
    """A new folder in ``parent`` to prepare something in, removed at the end unless it was published.

    Its writer holds a lock on it for as long as it lives. So the folders of writers that were killed are known, and
    the next writer removes them.
    """
    parent.mkdir(parents=True, exist_ok=True)
    guard = _lock(parent, fcntl.LOCK_EX)  # between making a folder and locking it, nobody may take it for abandoned
    try:
        for left in parent.glob(".staging-*"):
            remove_unless_held(left)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=parent))
        writer = _lock(staging, fcntl.LOCK_EX)
    finally:
        os.close(guard)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(writer)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """For the length of the block, or of this process, ``remove_unless_held`` leaves the folder alone.

    Raises:
        FileNotFoundError: it is gone, or was just being removed.
    """
    holder = _lock(folder, fcntl.LOCK_SH)
    try:
        folder.stat()
        yield
    finally:
        os.close(holder)


def remove_unless_held(folder: Path) -> None:
    """Remove a folder that no living process holds."""
    try:
        remover = _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.close(remover)


def _lock(folder: Path, operation: int) -> int:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, operation)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def publish_directory(staging: Path, target: Path) -> None:
    """Make the finished folder ``staging`` appear as ``target``, contents first, in one step.

    Both must be in one file system, and ``target`` must not exist.
    """
    for entry in staging.iterdir():
        with entry.open("rb") as file:
            os.fsync(file.fileno())
    _sync_directory(staging)
    staging.chmod(0o755)
    staging.rename(target)
    _sync_directory(target.parent)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
