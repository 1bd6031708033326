"""A bundle that is replaced is there at every moment, or again at the next start."""

import itertools
import os
import signal
import sys
from pathlib import Path

import pytest

from trainer.bundle import published, read_sidecar, require_replaceable, write_sidecar


def replace_until(rename: int, bundle: Path) -> None:
    """Replace `bundle` in a process that is killed as it begins its rename of that number, if it gets so far."""
    if child := os.fork():
        os.waitpid(child, 0)
        return
    try:
        renames = itertools.count()

        def kill(event: str, _arguments: object) -> None:
            if event == "os.rename" and next(renames) == rename:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill)
        with published(bundle) as draft:
            write_sidecar(draft, {"new": True})
    finally:
        os._exit(0)


@pytest.mark.parametrize("rename", range(3))
def test_bundle_is_there_at_every_moment_of_its_replacement(tmp_path: Path, rename: int) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_sidecar(bundle, {"new": False})
    replace_until(rename, bundle)
    assert read_sidecar(bundle) == {"new": True}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("rename", range(3))
def test_replacement_cut_off_where_names_cannot_be_exchanged_is_undone_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename: int
) -> None:
    # As over NFS.
    monkeypatch.setattr("trainer.bundle._exchanged", lambda *_: False)
    bundle = tmp_path / "[a] bundle"
    bundle.mkdir()
    write_sidecar(bundle, {"new": False})
    replace_until(rename, bundle)
    assert bundle.exists() == (rename != 1)
    require_replaceable(bundle)
    assert read_sidecar(bundle) == {"new": rename == 2}
    assert [path.name for path in tmp_path.iterdir() if path.name == bundle.name or rename] == [bundle.name]


def test_what_a_killed_process_has_written_of_a_bundle_goes_with_the_next_one(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    if not (child := os.fork()):
        with published(bundle) as draft:
            write_sidecar(draft, {"new": False})
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    with published(tmp_path / "another") as another, published(bundle) as draft:
        for folder in (another, draft):
            write_sidecar(folder, {"new": True})
    assert {path.name for path in tmp_path.iterdir()} == {"another", "bundle"}


def test_what_is_not_of_the_bundle_that_is_published_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.bundle._exchanged", lambda *_: False)
    notes, other = tmp_path / ".model.notes", tmp_path / "v1.2"
    for folder in (notes, other):
        folder.mkdir()
        write_sidecar(folder, {"of": folder.name})
    replace_until(1, other)
    assert not other.exists()
    for name in ("model", "v1"):
        require_replaceable(tmp_path / name)
        assert not (tmp_path / name).exists()
        with published(tmp_path / name) as draft:
            write_sidecar(draft, {"of": name})
    require_replaceable(other)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.notes", "model", "v1", "v1.2"]
    for folder in tmp_path.iterdir():
        assert read_sidecar(folder) == {"of": folder.name}


def test_bundle_is_not_taken_from_a_living_process_that_is_replacing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    write_sidecar(bundle, {"new": False})

    def look_between_the_renames(*_: object) -> bool:
        bundle.rename(next(tmp_path.glob(".*")) / "replaced")
        require_replaceable(bundle)
        assert not bundle.exists()
        (next(tmp_path.glob(".*")) / "replaced").rename(bundle)
        return False

    monkeypatch.setattr("trainer.bundle._exchanged", look_between_the_renames)
    with published(bundle) as draft:
        write_sidecar(draft, {"new": True})
    assert read_sidecar(bundle) == {"new": True}


def test_what_a_living_process_writes_of_a_bundle_is_left_alone(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    with published(bundle) as first, published(bundle) as second:
        for folder in (first, second):
            write_sidecar(folder, {"new": True})
    assert read_sidecar(bundle) == {"new": True}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
