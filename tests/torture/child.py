"""A run of a job in a process of its own, forked from one that has everything imported already."""

import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

PROOF = "FSYNC_FAILED"  # names a file that is made when fsync fails
INGEST_NEEDS = [
    "adbc_driver_postgresql.dbapi",
    "feast",
    "feature_repo.definitions",
    "feature_repo.store",
    "forecast_assets.demo",
    "matplotlib.figure",
    "pandera.pandas",
]
REST_NEEDS = [
    "feature_repo.materialize",
    "feature_repo.online_reader",
    "feature_repo.parity",
    "kubeflow.trainer",
    "serving.forecasting",
    "trainer.bundle",
]


def forking(modules: list[str], shim: Path) -> ForkServerContext:
    """Where runs are forked from: one process without threads, which has imported ``modules`` and loaded ``shim``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(modules)
    if shim.exists():
        os.environ["LD_PRELOAD"] = str(shim)
    first = context.Process(target=str)  # starts the server, in the present environment
    first.start()
    first.join()
    os.environ.pop("LD_PRELOAD", None)
    return context


def start(
    context: ForkServerContext, job: str, environment: Mapping[str, str], log: Path, failing_fsync: int | None = None
) -> ForkServerProcess:
    """Start ``job``; its exit status is 0 if it succeeded. What it prints goes to ``log``."""
    process = context.Process(target=_run, args=(job, dict(environment), str(log), failing_fsync))
    process.start()
    return process


def _run(job: str, environment: dict[str, str], log: str, failing_fsync: int | None) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ.clear()
    os.environ.update(environment)
    # A shell that starts the campaign in the background lets all that it starts ignore this one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if failing_fsync is not None:
        _let_fsync_fail(failing_fsync)

    from forecast_assets.demo import _quieten, execute

    _quieten()
    succeeded = execute(job)
    for late in (signal.SIGINT, signal.SIGTERM):
        signal.signal(late, signal.SIG_IGN)
    sys.exit(0 if succeeded else 1)


def _let_fsync_fail(number: int) -> None:
    """The ``number``-th call fails, as on a disk that is giving up."""
    fsync, calls = os.fsync, 0

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            Path(os.environ[PROOF]).touch()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    os.fsync = failing  # type: ignore[assignment]
