"""A frame that the trainer has a Feast repository retrieve."""

import signal
import textwrap
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from trainer_frames import made_up_table, publish_frame

from trainer.distributed import World
from trainer.errors import FrameError, Interrupted, LostDatabaseError
from trainer.frame import read_frame
from trainer.signals import StopRequest, stop_on_signal
from trainer.sources import _wait_for, provide_frame
from trainer.spec import TrainSpec

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.sources._FIRST_PAUSE_SECONDS", 0.02)


def spec_for(tmp_path: Path, script: str, **fields: object) -> TrainSpec:
    """A spec whose Feast repository's exporter is `script`, which has `tries`, `arguments` and `ready` at hand."""
    publish_frame(made_up_table(weeks=10), tmp_path / "ready")
    repository = tmp_path / "feature_repo"
    repository.mkdir()
    (repository / "__init__.py").touch()
    prelude = f"""
        import pathlib, shutil, sys, time
        here = pathlib.Path({str(tmp_path)!r})
        arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
        with (here / "tries").open("a") as file:
            file.write("x")
        tries = len((here / "tries").read_text())
        ready = here / "ready"
    """
    (repository / "export.py").write_text(textwrap.dedent(prelude) + textwrap.dedent(script))
    return TrainSpec(
        frame_path=str(tmp_path / "frames" / "frame"),
        model_output_dir=str(tmp_path / "bundle"),
        data_source="feast_file",
        feast_repo_path=str(repository),
        chunk_size=123,
        **fields,  # type: ignore[arg-type]
    )


def tries(tmp_path: Path) -> int:
    return len((tmp_path / "tries").read_text())


def test_frame_is_retrieved_once_a_lost_database_is_back_and_then_used_as_it_is(tmp_path: Path) -> None:
    script = """
        if tries < 3:
            sys.stderr.write("the server closed the connection\\n")
            sys.exit(75)
        assert arguments["--source"] == "feast_file" and arguments["--chunk-size"] == "123"
        target = pathlib.Path(arguments["--frame-path"])
        target.parent.mkdir(exist_ok=True)
        shutil.move(ready, target)
    """
    spec = spec_for(tmp_path, script)
    provide_frame(spec, ALONE, StopRequest())
    assert read_frame(spec.frame_path).table.equals(made_up_table(weeks=10))
    provide_frame(spec, ALONE, StopRequest())
    assert tries(tmp_path) == 3


def test_database_that_stays_away_is_given_up_after_three_tries(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, "sys.stderr.write('no route to host\\n'); sys.exit(75)")
    with pytest.raises(LostDatabaseError, match="did not answer in 3 tries: no route to host"):
        provide_frame(spec, ALONE, StopRequest())
    assert tries(tmp_path) == 3


def test_other_failure_of_the_retrieval_is_told_with_its_last_line(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, "raise ValueError('feature service x is not registered')")
    with pytest.raises(FrameError, match="status 1: ValueError: feature service x is not registered"):
        provide_frame(spec, ALONE, StopRequest())
    assert tries(tmp_path) == 1


def test_missing_repository_and_an_image_without_feast_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_for(tmp_path, "")
    lost = replace(spec, feast_repo_path=str(tmp_path / "lost"))
    with pytest.raises(FrameError, match=f"feast_repo_path {tmp_path}/lost is not a directory"):
        provide_frame(lost, ALONE, StopRequest())
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(FrameError, match="data_source feast_file needs Feast, which is not installed here"):
        provide_frame(spec, ALONE, StopRequest())


def test_signal_ends_the_retrieval(tmp_path: Path) -> None:
    spec = spec_for(tmp_path, "time.sleep(60)")
    with stop_on_signal() as stop:
        threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM]).start()
        with pytest.raises(Interrupted):
            provide_frame(spec, ALONE, stop)


def test_other_processes_wait_for_the_marker_until_the_first_fails_or_time_is_up(tmp_path: Path) -> None:
    frame, failed = tmp_path / "frame", tmp_path / "failed"
    with pytest.raises(FrameError, match=r"frame .*/frame was not complete after retrieval_timeout_sec 0\.2"):
        _wait_for(frame, failed, 0.2, StopRequest())
    threading.Timer(0.2, publish_frame, [made_up_table(weeks=10), frame]).start()
    _wait_for(frame, failed, 30.0, StopRequest())
    failed.touch()
    _wait_for(tmp_path / "other", failed, 30.0, StopRequest())
