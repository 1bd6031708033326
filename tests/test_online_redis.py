"""Redis in front of PostgreSQL, against a real server that stops and comes back."""

import shutil
import time
from typing import Any

import psycopg
import pytest
from feast import FeatureService, FeatureStore, RepoConfig
from online_example import (
    EVERY_TYPE,
    FULL,
    NOON,
    PER_STORE,
    SERVICE,
    TYPES,
    example_store,
    read,
    sizes,
    write,
)
from psycopg_pool import ConnectionPool
from redis_servers import PASSWORD, RedisServer

from feature_repo import online_postgres
from feature_repo.database import PostgresSettings
from feature_repo.online_postgres import OnlineStoreUnavailableError
from feature_repo.online_reader import OnlineReader
from feature_repo.online_redis import RedisRows
from feature_repo.store import open_store

pytest_plugins = ["redis_fixtures"]
pytest.importorskip("redis", reason="the extra 'redis' is not installed")
pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server is installed")


def test_every_type_comes_back_from_redis_alone(store: FeatureStore, postgres_reads: list[int]) -> None:
    write(store, EVERY_TYPE, {(1, "full"): FULL, (1, "empty"): {}})
    write(store, PER_STORE, {(1,): {"size": 5}})

    found = read(store, SERVICE, [{"store": 1, "code": code} for code in ("empty", "full", "unknown")])

    for name in TYPES:
        assert found[name] == [None, FULL[name], None], name
    assert found["size"] == [5, 5, 5]
    assert str(found["window"][1][1]) == "-0.0"
    assert postgres_reads == []


def test_a_feature_that_is_not_written_keeps_its_value_in_redis_too(
    store: FeatureStore, postgres_reads: list[int]
) -> None:
    write(store, EVERY_TYPE, {(1, "a"): FULL})

    write(store, EVERY_TYPE, {(1, "a"): {"small": 7}}, partly=True)

    found = read(store, ["every_type:small", "every_type:word"], [{"store": 1, "code": "a"}])
    assert (found["small"], found["word"], postgres_reads) == ([7], [FULL["word"]], [])


def test_event_times_and_the_reader_are_the_same_from_both(store: FeatureStore, redis_server: RedisServer) -> None:
    write(store, PER_STORE, {(1,): {"size": 5}})
    write(store, EVERY_TYPE, {(1, "a"): {"double": 0.1}})
    features = ["per_store:size", "every_type:double"]
    rows = [{"store": 1, "code": "a"}, {"store": 2, "code": "a"}]

    def answer() -> dict[str, Any]:
        response = store.get_online_features(features=features, entity_rows=rows)
        return response.to_dict(include_event_timestamps=True)

    from_redis = answer()
    redis_server.stop()

    assert from_redis == answer()
    assert from_redis["size__ts"] == [int(NOON.timestamp()), 0]
    assert from_redis["double"] == [0.1, None]


def test_while_redis_is_away_postgresql_answers_and_then_redis_again(
    store: FeatureStore, redis_server: RedisServer, postgres_reads: list[int]
) -> None:
    write(store, PER_STORE, {(1,): {"size": 5}})
    redis_server.stop()

    assert sizes(store, 1, 2) == [5, None]
    write(store, PER_STORE, {(1,): {"size": 6}})
    assert sizes(store, 1) == [6]
    assert len(postgres_reads) == 2

    redis_server.start()
    time.sleep(0.25)  # Redis is left alone for its time-out after a failure
    assert sizes(store, 1) == [6]
    assert len(redis_server.keys()) == 1, "the first read that finds nothing there copies the view"
    assert len(postgres_reads) == 3
    assert sizes(store, 1, 2) == [6, None]
    assert len(postgres_reads) == 3


def test_another_processs_write_is_seen_at_the_next_question(store: FeatureStore, database: PostgresSettings) -> None:
    store.config.online_store.redis_verify_seconds = 60.0
    write(store, PER_STORE, {(1,): {"size": 5}})
    assert sizes(store, 1) == [5]

    with open_store(database) as other:  # one that cannot reach Redis
        write(other, PER_STORE, {(1,): {"size": 6}})
    redis_rows: Any = store._get_provider().online_store._redis  # type: ignore[attr-defined]
    redis_rows._verify_seconds = 0.0

    assert sizes(store, 1) == [6]


def test_what_is_done_together_is_seen_together(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store, PER_STORE, {(1,): {"size": 5}, (2,): {"size": 50}})
    write(store, EVERY_TYPE, {(1, "a"): {"small": 5}, (2, "a"): {"small": 50}})
    provider: Any = store._get_provider()
    online_store = provider.online_store
    sizes_view = store.get_feature_view("per_store")

    def seen() -> tuple[list[Any], list[Any]]:
        found = read(store, ["per_store:size", "every_type:small"], [{"store": n, "code": "a"} for n in (1, 2)])
        return found["size"], found["small"]

    before = seen()
    copies: list[tuple[Any, ...]] = []
    original = RedisRows._stage

    def staged(self: RedisRows, table: Any) -> Any:
        result = original(self, table)
        copies.append(seen())
        return result

    online_store._redis._verify_seconds = 60.0
    monkeypatch.setattr(RedisRows, "_stage", staged)
    with online_store.together(store.config):
        online_store.remove(store.config, sizes_view, later_than=NOON, keep={"store": [1]})
        write(store, PER_STORE, {(1,): {"size": 6}})
        write(store, EVERY_TYPE, {(1, "a"): {"small": 6}})
        assert seen() == before
    assert copies == [before, before]
    assert seen() == ([6, None], [6, 50])

    with pytest.raises(ZeroDivisionError), online_store.together(store.config):
        write(store, PER_STORE, {(1,): {"size": 1 // 0}})
    write(store, PER_STORE, {(2,): {"size": 7}})
    assert seen() == ([6, 7], [6, 50])


def test_redis_answers_while_postgresql_is_away(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_postgres, "FIRST_DELAY", 0.01)
    write(store, PER_STORE, {(1,): {"size": 5}})
    assert sizes(store, 1) == [5]

    def away(*_: Any) -> Any:
        raise psycopg.OperationalError("the server is away")

    monkeypatch.setattr(ConnectionPool, "connection", away)

    assert sizes(store, 1) == [5]
    with pytest.raises(OnlineStoreUnavailableError, match="the server is away"):
        write(store, PER_STORE, {(1,): {"size": 6}})


def test_the_reader_reads_redis_too(store: FeatureStore, postgres_reads: list[int]) -> None:
    store.apply([FeatureService(name="sizes", features=[PER_STORE])])
    write(store, PER_STORE, {(1,): {"size": 5}})

    features = OnlineReader(store, "sizes").read({"store": [2, 1]})

    assert features.table.to_pydict() == {"store": [2, 1], "size": [None, 5]}
    assert features.unknown == [{"store": 2}]
    assert postgres_reads == []


def test_the_url_comes_from_the_environment(
    database: PostgresSettings, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEAST_REDIS_URL", redis_server.url)

    with example_store(database) as store:
        assert PASSWORD not in repr(store.config.online_store)
        write(store, PER_STORE, {(1,): {"size": 5}})
        assert sizes(store, 1) == [5]

    assert len(redis_server.keys()) == 1


def test_feasts_own_redis_store_alone_works_as_well(
    database: PostgresSettings, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def redis_alone(**config: Any) -> Any:
        connection = f"localhost:{redis_server.port},password={PASSWORD}"
        return RepoConfig(**{**config, "online_store": {"type": "redis", "connection_string": connection}})

    monkeypatch.setattr("feast.RepoConfig", redis_alone)

    with example_store(database) as store:
        write(store, PER_STORE, {(1,): {"size": 5}})
        assert sizes(store, 1, 2) == [5, None]
        store._get_provider().online_store._client.close()  # type: ignore[attr-defined]
