"""Writing files so that a reader, or a crash, finds the old content or the new one."""

import os
from pathlib import Path


def write_reference(path: Path, text: str) -> None:
    """Replace the small file ``path`` by ``text``. A file that holds it already is not touched."""
    if read_reference(path) == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_directory(path.parent)


def read_reference(path: Path) -> str | None:
    """The text written by ``write_reference``, or None where there is no such file."""
    return path.read_text(errors="replace").strip() if path.exists() else None


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
