"""Of what a real Redis server holds, only whole copies of the present rows are believed."""

import shutil
import time
from typing import Any

import psycopg
import pytest
from feast import FeatureStore
from feast.types import Float64, Int64
from online_example import (
    NOON,
    PER_STORE,
    example_store,
    read,
    sizes,
    store_entity,
    view,
    write,
)
from redis_servers import RedisServer

from feature_repo.database import PostgresSettings
from feature_repo.online_postgres import ChangedDefinitionError
from feature_repo.online_redis import RedisRows
from feature_repo.store import open_store

pytest_plugins = ["redis_fixtures"]
pytest.importorskip("redis", reason="the extra 'redis' is not installed")
pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server is installed")


def test_redis_that_comes_back_with_old_values_is_not_believed(
    store: FeatureStore, redis_server: RedisServer, postgres_reads: list[int]
) -> None:
    write(store, PER_STORE, {(1,): {"size": 5}, (2,): {"size": 50}})
    redis_server.stop(keep=True)
    write(store, PER_STORE, {(1,): {"size": 6}})
    redis_server.start()
    time.sleep(0.25)
    assert len(redis_server.keys()) == 1

    assert sizes(store, 1, 2) == [6, 50]
    assert len(postgres_reads) == 1
    assert sizes(store, 1, 2) == [6, 50]
    assert len(postgres_reads) == 1


def test_a_copy_whose_rows_vanish_before_they_are_shown_is_not_believed(
    store: FeatureStore, redis_server: RedisServer, postgres_reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, PER_STORE, {(1,): {"size": 5}})
    original = RedisRows._stage

    def vanishing(self: RedisRows, table: Any) -> tuple[str, str]:
        version, staged = original(self, table)
        with redis_server.client() as client:
            assert client.delete(staged) == 1  # as when it expires or is evicted
        return version, staged

    with monkeypatch.context() as patch:
        patch.setattr(RedisRows, "_stage", vanishing)
        write(store, PER_STORE, {(1,): {"size": 6}})
        time.sleep(0.25)  # Redis is left alone for its time-out after a failure
        assert (sizes(store, 1), len(postgres_reads)) == ([6], 1)

    time.sleep(0.25)
    assert (sizes(store, 1), len(postgres_reads)) == ([6], 2)
    assert (sizes(store, 1), len(postgres_reads)) == ([6], 2)


def test_rows_that_redis_evicts_are_not_taken_for_unknown_ones(store: FeatureStore, redis_server: RedisServer) -> None:
    write(store, PER_STORE, {(1,): {"size": 5}})
    with redis_server.client() as client:
        assert client.delete(*client.scan_iter("*:rows")) == 1

    assert sizes(store, 1) == [5]


def test_a_view_without_rows_is_answered_by_redis(store: FeatureStore, postgres_reads: list[int]) -> None:
    assert [sizes(store, 1) for _ in range(3)] == [[None]] * 3
    assert len(postgres_reads) == 1


def test_a_read_that_cannot_be_copied_is_answered(
    database: PostgresSettings, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"redis_url": redis_server.url, "statement_timeout": 0.2}
    with example_store(database, **options) as store, psycopg.connect(database.url) as other:
        write(store, PER_STORE, {(1,): {"size": 5}})
        with redis_server.client() as client:
            client.flushall()
        other.execute("LOCK TABLE feast_online.materialized_versions")  # read by copies only

        assert sizes(store, 1) == [5]

    assert "did not answer in time" in caplog.text
    assert redis_server.keys() == []


def test_an_older_value_reaches_neither(store: FeatureStore) -> None:
    write(store, PER_STORE, {(1,): {"size": 5}})
    write(store, PER_STORE, {(1,): {"size": 4}}, event=NOON.replace(year=2011))

    assert sizes(store, 1) == [5]


def test_a_changed_schema_is_another_copy(store: FeatureStore) -> None:
    write(store, PER_STORE, {(1,): {"size": 5}})
    store.apply([view("per_store", {"area": Float64, "size": Int64}, [store_entity])])

    assert read(store, ["per_store:size", "per_store:area"], [{"store": 1}]) == {
        "store": [1],
        "size": [5],
        "area": [None],
    }


def test_a_feature_that_is_another_now_is_not_copied_as_what_it_was(
    store: FeatureStore, database: PostgresSettings
) -> None:
    store.apply([view("per_store", {"size": Int64, "area": Int64}, [store_entity])])
    with open_store(database) as other:
        other.apply([view("per_store", {"size": Int64, "area": Float64}, [store_entity])])
        write(other, PER_STORE, {(1,): {"size": 5, "area": 0.5}})

    assert sizes(store, 1) == [5], "what is still the same is read"
    with pytest.raises(ChangedDefinitionError, match=r"area in .* is no longer a bigint"):
        read(store, ["per_store:area"], [{"store": 1}])
