"""The online store with many readers and writers at once, lost connections and a stopped server."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from feast import FeatureStore
from online_example import (
    NOON,
    PER_STORE,
    example_store,
    first_key,
    sizes,
    write,
)

from feature_repo import embedded_postgres, online_postgres
from feature_repo.database import PostgresSettings
from feature_repo.online_postgres import APPLICATION, OnlineStoreUnavailableError

HOUR = timedelta(hours=1)

pytestmark = pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")


@pytest.fixture
def store(database: PostgresSettings) -> Iterator[FeatureStore]:
    with example_store(database) as store:
        yield store


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is spent waiting between attempts."""
    monkeypatch.setattr(online_postgres, "FIRST_DELAY", 0.01)


def test_writers_and_readers_at_once_end_with_the_newest(store: FeatureStore) -> None:
    keys = range(200)
    stop = threading.Event()
    seen: list[set[int | None]] = []

    def watch() -> None:
        while not stop.is_set():
            seen.append(set(sizes(store, *keys)))

    reader = threading.Thread(target=watch)
    reader.start()
    with ThreadPoolExecutor(8) as pool:
        for done in [
            pool.submit(write, store, PER_STORE, {(key,): {"size": n} for key in keys}, event=NOON + n * HOUR)
            for n in range(16)
        ]:
            done.result()
    stop.set()
    reader.join()

    assert set(sizes(store, *keys)) == {15}
    assert all(len(values) == 1 for values in seen), "a reader saw half a batch"


@pytest.mark.usefixtures("quick")
def test_lost_connections_are_made_again(store: FeatureStore, database: PostgresSettings) -> None:
    write(store, PER_STORE, {(1,): {"size": 5}})

    for use in (lambda: sizes(store, 1), lambda: write(store, PER_STORE, {(2,): {"size": 6}})):
        with psycopg.connect(database.url, autocommit=True) as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = current_database() AND application_name = '{APPLICATION}'"
            ).fetchall()
            assert ended
        use()

    assert sizes(store, 1, 2) == [5, 6]


def test_a_read_that_is_held_up_is_given_up_in_time_and_not_tried_again(database: PostgresSettings) -> None:
    with example_store(database, statement_timeout=0.2) as store, psycopg.connect(database.url) as other:
        write(store, PER_STORE, {(1,): {"size": 5}})
        other.execute("LOCK TABLE feast_online.demand_forecasting_per_store")

        with pytest.raises(OnlineStoreUnavailableError, match=r"did not answer in time .*statement timeout"):
            sizes(store, 1)

        other.rollback()
        assert sizes(store, 1) == [5]


def test_without_a_limit_of_its_own_the_store_has_that_of_its_role(database: PostgresSettings) -> None:
    with psycopg.connect(database.url) as connection:
        connection.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {database.database} SET statement_timeout = '7s'")

    for own, expected in ((0.0, "7s"), (2.0, "2s")):
        with example_store(database, statement_timeout=own) as store:
            postgres = store._get_provider().online_store._postgres  # type: ignore[attr-defined]
            assert postgres._run(lambda c: c.execute("SHOW statement_timeout").fetchone()) == (expected,)


@pytest.mark.usefixtures("quick")
def test_a_stopped_server_gives_one_clear_error_and_is_used_again_after(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    root = tmp_path / "postgres"
    server = PostgresSettings.embedded(root)
    with example_store(server, pool_timeout=0.3) as store:
        write(store, PER_STORE, {(1,): {"size": 5}})
        applied = store.get_feature_view("per_store")
        online_store: Any = store._get_provider().online_store
        read_size: Callable[[], list[int]] = lambda: [  # noqa: E731
            row[1]["size"].int64_val for row in online_store.online_read(store.config, applied, [first_key(applied)])
        ]
        assert read_size() == [5]
        embedded_postgres.stop(root)

        with pytest.raises(OnlineStoreUnavailableError) as error:
            read_size()

        assert f"{server.host}:5432/forecast did not answer in 3 attempts" in str(error.value)
        assert "check that PostgreSQL runs" in str(error.value)
        PostgresSettings.embedded(root)
        assert read_size() == [5]
    embedded_postgres.stop(root)


def test_the_pool_is_bounded(database: PostgresSettings) -> None:
    with (
        example_store(database, max_conn=2) as store,
        psycopg.connect(database.url) as connection,
        ThreadPoolExecutor(12) as pool,
    ):
        for done in [pool.submit(sizes, store, n) for n in range(60)]:
            done.result()
        counted = connection.execute(
            f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            f"AND application_name = '{APPLICATION}'"
        ).fetchone()
    assert counted is not None
    assert 1 <= counted[0] <= 2
