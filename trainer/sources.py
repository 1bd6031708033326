"""Where the frame comes from, if it is not there yet: the first process retrieves it through Feast, the others wait.

Feast is no part of the trainer. The exporter is a program beside it, in images that have Feast:

    python -m feature_repo.export --source S --repo DIR --frame-path DIR --chunk-size N

It publishes a frame, as a whole (`trainer.frame` says what that is), and exits with 0; with 75 if the database did not
answer and the same again may succeed; else with another status and the reason as last line of standard error.
"""

import importlib.util
import logging
import subprocess
import sys
import time
from pathlib import Path

from trainer.distributed import World, agreed
from trainer.errors import EXIT_RESUME_ME, FrameError, Interrupted, LostDatabaseError
from trainer.frame import COMPLETION_MARKER
from trainer.signals import StopRequest
from trainer.spec import FEAST_SOURCES, TrainSpec

_logger = logging.getLogger("trainer")
EXPORTER = "feature_repo.export"
_TRIES = 3
_FIRST_PAUSE_SECONDS = 1.0
_POLL_SECONDS = 0.1
_FAILURE_MARKER = ".{}.failed"


def provide_frame(spec: TrainSpec, world: World, stop: StopRequest) -> None:
    """Have a complete frame at `frame_path`. One that is there is used: a training goes on with the rows it began with.

    Raises:
        FrameError: the retrieval is impossible, or was not complete within the time-out.
        LostDatabaseError: the database did not answer, three times.
        Interrupted: the training was asked to stop.
    """
    if spec.data_source not in FEAST_SOURCES:
        return
    frame = Path(spec.frame_path)
    failed = frame.with_name(_FAILURE_MARKER.format(frame.name))
    if world.rank == 0:
        failed.unlink(missing_ok=True)
    world.barrier()
    with agreed(world):
        if (frame / COMPLETION_MARKER).is_file():
            return
        if world.rank > 0:
            _wait_for(frame, failed, spec.retrieval_timeout_sec, stop)
            return
        try:
            _retrieve(spec, stop)
        except Exception:
            failed.parent.mkdir(parents=True, exist_ok=True)
            failed.touch()
            raise


def _retrieve(spec: TrainSpec, stop: StopRequest) -> None:
    if importlib.util.find_spec("feast") is None:
        raise FrameError(
            f"data_source {spec.data_source} needs Feast, which is not installed here: use an image that has it, or "
            "data_source direct with a published frame"
        )
    repository = Path(spec.feast_repo_path).resolve()
    if not repository.is_dir():
        raise FrameError(f"feast_repo_path {repository} is not a directory")
    command = [sys.executable, "-m", EXPORTER, "--source", spec.data_source, "--repo", str(repository)]
    command += ["--frame-path", str(Path(spec.frame_path).resolve()), "--chunk-size", str(spec.chunk_size)]
    for attempt in range(1, _TRIES + 1):
        status, reason = _run(command, repository.parent, stop)
        if status == 0:
            return
        if status != EXIT_RESUME_ME:
            raise FrameError(f"the retrieval through {repository} ended with status {status}: {reason}")
        _logger.warning("retrieval, try %d of %d: the database did not answer: %s", attempt, _TRIES, reason)
        if attempt < _TRIES:
            _pause(_FIRST_PAUSE_SECONDS * 4 ** (attempt - 1), stop)
    raise LostDatabaseError(f"the feature store's database did not answer in {_TRIES} tries: {reason}")


def _run(command: list[str], folder: Path, stop: StopRequest) -> tuple[int, str]:
    """The exit status, and the last line of standard error. A package in `folder` comes before an installed one."""
    process = subprocess.Popen(command, cwd=folder, stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    try:
        while True:
            try:
                _, written = process.communicate(timeout=_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                _check(stop)
            else:
                lines = written.strip().splitlines()
                return process.returncode, lines[-1] if lines else "no reason given"
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def _wait_for(frame: Path, failed: Path, timeout_sec: float, stop: StopRequest) -> None:
    deadline = time.monotonic() + timeout_sec
    while not (frame / COMPLETION_MARKER).is_file():
        if failed.exists():
            return  # the first process says why
        if time.monotonic() > deadline:
            raise FrameError(f"frame {frame} was not complete after retrieval_timeout_sec {timeout_sec:g}")
        _pause(_POLL_SECONDS, stop)


def _pause(seconds: float, stop: StopRequest) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        _check(stop)
        time.sleep(min(left, _POLL_SECONDS))


def _check(stop: StopRequest) -> None:
    if stop.made:
        raise Interrupted("stopped by a signal while the frame was retrieved")
