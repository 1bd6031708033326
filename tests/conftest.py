"""What the tests share: an environment without the caller's settings, a small drop, one PostgreSQL server."""

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import hypothesis
import psycopg
import pytest

# Read when the module is imported, and by the server's watcher: no process is to outlive the tests for long.
os.environ["EMBEDDED_POSTGRES_IDLE_SECONDS"] = "0.2"

from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings
from forecast_assets.sample_data import write_sample_data

# A shell that starts tests in the background lets them, and all that they start, ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The machines that run this are slow and shared: no deadline. Failures are printed so that they can be repeated.
hypothesis.settings.register_profile("project", deadline=None, database=None, print_blob=True)
hypothesis.settings.load_profile("project")

_database_numbers = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The trainer's files of few, long tests come first, so that no process is left with one at the end."""
    items.sort(key=lambda item: item.path.parent.name != "trainer")


@pytest.fixture(autouse=True)
def _environment_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("POSTGRES_") or name in {"LANDING_DIR", "DEPLOYMENT", "ALERT_WEBHOOK_URL", "DAGSTER_UI_URL"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("FORECAST_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def small_drop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a valid drop of 3 stores and 33 series, to be read only."""
    folder = tmp_path_factory.mktemp("small_drop")
    write_sample_data(folder, size=0.01)
    return folder


@pytest.fixture
def landing(small_drop: Path, tmp_path: Path) -> Path:
    """A copy of the small drop, to be spoilt."""
    return Path(shutil.copytree(small_drop, tmp_path / "landing"))


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresSettings]:
    """An embedded PostgreSQL in a folder with a space in its name; gone, with its watcher, when the tests end."""
    with tempfile.TemporaryDirectory(prefix="forecast tests ") as folder:
        # Where the server has to run as 'nobody', that account must be able to enter.
        Path(folder).chmod(0o755)
        root = Path(folder).resolve() / "postgres"
        settings = PostgresSettings.embedded(root)
        with psycopg.connect(settings.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")  # nothing here is to survive a power cut
            connection.execute("SELECT pg_reload_conf()")
        yield settings
        embedded_postgres.stop(root)
        os.close(embedded_postgres._held_locks.pop(root))
        with (root / "watcher.lock").open() as watcher_lock:
            fcntl.flock(watcher_lock, fcntl.LOCK_EX)


@pytest.fixture
def database(server: PostgresSettings) -> PostgresSettings:
    """An empty database of the test's own; it goes with the server."""
    return _new_database(server)


@pytest.fixture(scope="module")
def module_database(server: PostgresSettings) -> PostgresSettings:
    """An empty database that the tests of a module share."""
    return _new_database(server)


def _new_database(server: PostgresSettings) -> PostgresSettings:
    name = f"test_{next(_database_numbers)}"
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return replace(server, database=name)
