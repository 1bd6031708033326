"""The server's instance, in PostgreSQL: a sensor's tick, a run whose process is killed, its retry, and the UI."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import dagster as dg
import psutil
import psycopg
import pytest
from dagster_ui import ask, free_port

from feature_repo.database import PostgresSettings
from feature_repo.paths import PROJECT_ROOT

T = TypeVar("T")


@pytest.fixture
def home(tmp_path: Path, landing: Path, database: PostgresSettings, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Dagster home with the server's ``dagster.yaml``, and the environment that its README names."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database.database}_dagster")
    shutil.copy(PROJECT_ROOT / "deploy" / "server" / "dagster.yaml", tmp_path)
    variables = {
        "DAGSTER_HOME": str(tmp_path),
        "DAGSTER_LOGS_DIR": str(tmp_path / "logs"),
        "DAGSTER_POSTGRES_HOST": "",  # with this empty, libpq takes PGHOST, which may be a socket's folder
        "PGHOST": database.host,
        "DAGSTER_POSTGRES_PORT": str(database.port),
        "DAGSTER_POSTGRES_DB": f"{database.database}_dagster",
        "DAGSTER_POSTGRES_USER": database.user,
        "DAGSTER_POSTGRES_PASSWORD": database.password,
        "POSTGRES_HOST": database.host,
        "POSTGRES_DB": database.database,
        "POSTGRES_SSLMODE": "disable",
        "LANDING_DIR": str(landing),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def daemon(home: Path) -> Iterator[None]:
    with service(home, "dagster._daemon", "run", "-m", "forecast_assets.definitions"):
        yield


@pytest.fixture
def port(home: Path) -> Iterator[int]:
    """Where the webserver listens."""
    port = free_port()
    with service(home, "dagster_webserver", "-m", "forecast_assets.definitions", "-p", str(port)):
        yield port


@contextmanager
def service(home: Path, module: str, *arguments: str) -> Iterator[None]:
    """One of the two long-running processes of the server's README. It leaves none behind."""
    with (home / f"{module}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=PROJECT_ROOT, stdout=log, stderr=log)
    yield
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    psutil.wait_procs(children, timeout=30)
    assert [child for child in children if child.is_running()] == []


def wait_for(look: Callable[[], T | None], seconds: float = 120) -> T:
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        assert time.monotonic() < deadline, "it did not come in time"
        time.sleep(0.2)
    return found


@pytest.mark.usefixtures("daemon")
def test_a_drop_is_ingested_though_the_process_of_its_run_is_killed_and_the_ui_shows_both_runs(
    database: PostgresSettings, port: int
) -> None:
    # Whoever wants to create the catalogue waits for this lock: the run stays where it can be killed.
    blocker = psycopg.connect(database.url)
    blocker.execute("SELECT pg_advisory_xact_lock(hashtext('create_catalog'))")
    with dg.DagsterInstance.get() as instance:
        run_id = wait_for(lambda: run_of(instance, dg.DagsterRunStatus.STARTED))
        pid = wait_for(lambda: blocked_process(database))
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: run_of(instance, dg.DagsterRunStatus.FAILURE))
        blocker.close()
        retry_id = wait_for(lambda: run_of(instance, dg.DagsterRunStatus.SUCCESS))
        retry = instance.get_run_by_id(retry_id)

    assert retry is not None
    assert retry.parent_run_id == run_id
    assert retry.tags["dagster/sensor_name"] == "landing_zone"
    with psycopg.connect(database.url) as connection:
        accepted = connection.execute(
            "SELECT file, run_id FROM forecast_assets.ingest_history ORDER BY file"
        ).fetchall()
    assert accepted == [(file, retry_id) for file in ("features.csv", "stores.csv", "train.csv")]
    shown = ask(
        port,
        """{
            version
            workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } }
            runsOrError { ... on Runs { results { runId status parentRunId } } }
        }""",
    )
    (location,) = shown["workspaceOrError"]["locationEntries"]
    runs = {run["runId"]: (run["status"], run["parentRunId"]) for run in shown["runsOrError"]["results"]}
    assert shown["version"] == dg.__version__
    assert location == {"name": "forecast_assets.definitions", "loadStatus": "LOADED"}
    assert (runs[run_id], runs[retry_id]) == (("FAILURE", None), ("SUCCESS", run_id))


def run_of(instance: dg.DagsterInstance, status: dg.DagsterRunStatus) -> str | None:
    """The landing zone's run of this status."""
    tags = {"dagster/sensor_name": "landing_zone"}
    runs = instance.get_runs(dg.RunsFilter(statuses=[status], tags=tags))
    return runs[0].run_id if runs else None


def blocked_process(database: PostgresSettings) -> int | None:
    """The process of the landing zone's run, as soon as it waits for the lock."""
    with psycopg.connect(replace(database, database="postgres").url) as connection:
        waiting = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event = 'advisory'", [database.database]
        ).fetchone()
    if not waiting or not waiting[0]:
        return None
    with dg.DagsterInstance.get() as instance:
        run_id = run_of(instance, dg.DagsterRunStatus.STARTED)
        assert run_id is not None
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
            if entry.dagster_event and "pid" in entry.dagster_event.engine_event_data.metadata:
                return int(str(entry.dagster_event.engine_event_data.metadata["pid"].value))
    return None
