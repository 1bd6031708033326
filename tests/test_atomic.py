"""Files are replaced as a whole: nothing is left of a write that failed, and writers side by side share no name."""

import datetime
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from feature_repo.features import TIMESTAMP
from forecast_assets.atomic import replacing, write_reference
from forecast_assets.frame_store import FrameStore
from forecast_assets.sample_data import write_sample_data
from trainer.bundle import published
from trainer.checkpoint import write_durably

LARGE = pa.table({TIMESTAMP: [datetime.datetime(2012, 11, 2, tzinfo=datetime.UTC)] * 1_000, "value": range(1_000)})


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond a few bytes, until the block ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def publish_frame(folder: Path) -> None:
    FrameStore(folder).publish(LARGE, feature_service="", feature_service_hash="")


def publish_bundle(folder: Path) -> None:
    with published(folder / "bundle") as draft:
        (draft / "best_model.pt").write_bytes(bytes(10_000))


WRITERS: dict[str, Callable[[Path], object]] = {
    "reference": lambda folder: write_reference(folder / "CURRENT", "x" * 1_000),
    "frame": publish_frame,
    "sample data": lambda folder: write_sample_data(folder, size=0.002),
    "bundle": publish_bundle,
    "checkpoint": lambda folder: write_durably(folder / "state.pt", bytes(10_000)),
}


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("write", WRITERS.values(), ids=list(WRITERS))
def test_nothing_is_left_of_a_write_for_which_the_disk_was_too_full(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith(".")] == []
    write(tmp_path)
    assert files_below(tmp_path)


@pytest.mark.parametrize(
    "write",
    [lambda path, text: write_reference(path, text), lambda path, text: write_durably(path, f"{text}\n".encode())],
    ids=["reference", "checkpoint"],
)
def test_a_writer_that_another_overtakes_ends_with_its_own_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, str], None]
) -> None:
    fsync, path = os.fsync, tmp_path / "file"

    def overtaken(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        write(path, "the other's, which is longer")
        assert path.read_text() == "the other's, which is longer\n"
        fsync(descriptor)

    # In one process, as two pods on one volume have the same process number.
    monkeypatch.setattr(os, "fsync", overtaken)
    write(path, "one's own")
    assert files_below(tmp_path) == {"file": b"one's own\n"}


def test_two_writers_of_one_file_have_a_name_each(tmp_path: Path) -> None:
    with replacing(tmp_path / "file") as one, replacing(tmp_path / "file") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert files_below(tmp_path) == {"file": b"one"}


def test_what_a_killed_writer_has_left_goes_with_the_next_write(tmp_path: Path) -> None:
    killed = """
import os, signal, sys
from pathlib import Path
from forecast_assets.atomic import replacing
with replacing(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", killed, str(tmp_path / "file")], check=False)
    assert list(files_below(tmp_path).values()) == [b"half"]

    write_reference(tmp_path / "other", "whole")
    assert files_below(tmp_path) == {"other": b"whole\n"}
