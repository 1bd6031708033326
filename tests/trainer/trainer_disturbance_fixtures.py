"""Fixtures of the tests of trainings that something happens to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from trainer_disturbances import Events, small_spec, train
from trainer_frames import made_up_table, publish_frame

from trainer import entry, job
from trainer.report import Report
from trainer.spec import TrainSpec


@pytest.fixture(scope="module")
def no_pictures_and_no_fsync() -> Iterator[None]:
    """Pictures take longer than the trainings of these tests; and nothing here is to survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _descriptor: None)
        patch.setattr(job, "write_plots", lambda *_: None)
        yield


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    kept = Events()

    @contextmanager
    def opened(_rank: int) -> Iterator[Report]:
        yield Report([kept])

    monkeypatch.setattr(entry, "opened_report", opened)
    return kept


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_frame(made_up_table(weeks=90), tmp_path_factory.mktemp("survival") / "frame")


@pytest.fixture
def spec(frame: Path, tmp_path: Path) -> TrainSpec:
    return small_spec(frame, tmp_path / "bundle")


@pytest.fixture(scope="module")
def undisturbed(frame: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `spec`, without anything happening on the way."""
    bundle = tmp_path_factory.mktemp("undisturbed") / "bundle"
    assert train(small_spec(frame, bundle)) == 0
    return bundle
