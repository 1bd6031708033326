"""Fixtures of the tests with Redis in front of PostgreSQL."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore
from online_example import example_store
from redis_servers import RedisServer

from feature_repo.database import PostgresSettings
from feature_repo.online_postgres import PostgresRows


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    server = RedisServer(tmp_path, port)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(database: PostgresSettings, redis_server: RedisServer) -> Iterator[FeatureStore]:
    options = {"redis_url": redis_server.url, "redis_timeout": 0.2, "redis_verify_seconds": 0.0}
    with example_store(database, **options) as store:
        yield store


@pytest.fixture
def postgres_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each read of rows from PostgreSQL."""
    reads: list[int] = []
    original = PostgresRows.read

    def counted(self: PostgresRows, requests: Any) -> Any:
        reads.append(1)
        return original(self, requests)

    monkeypatch.setattr(PostgresRows, "read", counted)
    return reads
