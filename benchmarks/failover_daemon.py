"""A failover of PostgreSQL under Dagster's daemon and a run of it, both as `deploy/server` says."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import dagster as dg
import psutil
import psycopg

from benchmarks.failover_clients import environment, hold, variables
from benchmarks.replicated_postgres import replicated_postgres
from feature_repo.paths import PROJECT_ROOT
from forecast_assets.sample_data import write_sample_data

T = TypeVar("T")
_PATIENCE = 180


@dataclass(frozen=True, slots=True)
class UnderDaemon:
    """What became of the drop: seconds from the kill until it was taken in, runs that took, and steps tried again."""

    seconds: float
    runs: int
    retries: int


def fail_over_under_daemon(*, size: float, detection: float) -> UnderDaemon:
    """Kill the primary while a run that the daemon started takes a drop in.

    Raises:
        TimeoutError: the drop was not taken in.
    """
    with replicated_postgres() as cluster, tempfile.TemporaryDirectory(prefix="bench-daemon-") as name:
        folder = Path(name)
        write_sample_data(folder / "landing", size=size)
        (folder / "home").mkdir()
        shutil.copy(PROJECT_ROOT / "deploy" / "server" / "dagster.yaml", folder / "home")
        with psycopg.connect(cluster.settings.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE dagster")
        settings = environment(cluster.settings, folder)
        paths = {"LANDING_DIR": str(folder / "landing"), "DAGSTER_LOGS_DIR": str(folder / "logs")}
        with variables({**settings, **paths}), hold(cluster.primary.settings) as held:
            # Whoever wants to create the catalogue waits for this: the first step of the run.
            held.connection.execute("SELECT pg_advisory_xact_lock(hashtext('create_catalog'))")
            with _daemon(folder), dg.DagsterInstance.get() as instance:
                held.until(1)
                killed = time.monotonic()
                cluster.fail_over(detection)
                run = _until(lambda: next(iter(_succeeded(instance)), None))
                seconds = time.monotonic() - killed
                group = instance.get_run_group(run.run_id)
                runs = [each.run_id for each in group[1]] if group else [run.run_id]
                retries = sum(
                    len(instance.all_logs(each, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)) for each in runs
                )
        return UnderDaemon(seconds, len(runs), retries)


def _succeeded(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    tags = {"dagster/sensor_name": "landing_zone"}
    return list(instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS], tags=tags)))


def _until(look: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + _PATIENCE
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no run took the drop in within {_PATIENCE} s")
        time.sleep(0.2)
    return found


@contextmanager
def _daemon(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "forecast_assets.definitions"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    with (folder / "daemon.log").open("wb") as file:  # not in the checkout, whose `.env` Dagster would read
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        yield
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        psutil.wait_procs(children, timeout=30)
