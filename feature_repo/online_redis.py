"""A copy of the online store's tables in Redis, which is at most a moment behind PostgreSQL.

Per view, one hash of all its rows and of the version of the table that it was copied from: they come, move and go
together. PostgreSQL gives a table a new version with each write, so a copy that missed one (Redis was away, came back
from an old dump, was restored) says so itself. The present version is asked for again after ``verify_seconds`` and
after each failure of Redis; between two such questions, Redis alone is read. So what another process writes is answered
with at the latest ``verify_seconds`` later, also where it could not copy it; and while PostgreSQL does not answer, with
the last version that was known here.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from feature_repo.online_layout import Row, ViewRequest, ViewTable
from feature_repo.online_postgres import OnlineStoreUnavailableError, PostgresRows

_LOG = logging.getLogger(__name__)
_CHUNK = 5_000
# A copy is made anew with each materialization; those of views that are gone are not kept for ever.
_KEPT_SECONDS = 30 * 24 * 3600
_COPY_LOCK_SECONDS = 60
# The rows of the first view wait for those of the last. Those of a process that ended go by themselves.
_STAGED_SECONDS = 600
# No key's name: those are JSON lists.
_VERSION = "version"


class RedisRows:
    """The same reads as ``PostgresRows``: from Redis where its copy is current, else from PostgreSQL."""

    def __init__(self, url: str, durable: PostgresRows, *, project: str, verify_seconds: float, timeout: float) -> None:
        try:
            import redis
        except ImportError as error:
            raise ImportError(
                "redis_url is set, but the Redis client is missing: install forecast-assets[redis]"
            ) from error
        # No retries of its own: a failure must be seen, because Redis may come back with old data.
        self._redis: Any = redis.Redis.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=None, max_connections=32
        )
        self._failures = (redis.RedisError, OSError)
        self._durable = durable
        self._project = project
        self._verify_seconds = verify_seconds
        self._known: dict[str, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._silent_until = 0.0
        self._timeout = timeout

    def read(self, requests: Sequence[ViewRequest]) -> list[list[Row]]:
        """The rows of each request, in the order of its keys."""
        found = self._try(lambda: self._current(requests))
        if found is None:
            return self._durable.read(requests)
        stale = [n for n, rows in enumerate(found) if rows is None]
        if stale:
            fresh = self._durable.read([requests[n] for n in stale])
            for n, rows in zip(stale, fresh, strict=True):
                found[n] = rows
            self.copy([requests[n].table for n in stale])
        return [rows or [] for rows in found]

    def copy(self, tables: Sequence[ViewTable]) -> None:
        """Bring Redis to PostgreSQL's present rows of ``tables``, of all at once; not while one of the two is away.

        A table that another process is copying is left to it.
        """
        try:
            self._try(lambda: self._copy(tables))
        except (OnlineStoreUnavailableError, LookupError) as error:
            # What was read or written is so without a copy, and the old one is not believed.
            _LOG.warning("The online store was not copied to Redis: %s", error)

    def delete(self, tables: Sequence[ViewTable]) -> None:
        """Remove the copies of ``tables``."""
        names = [self._name(table) for table in tables]
        self._try(lambda: self._redis.delete(*names) if names else None)

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        self._redis.close()

    def _try(self, work: Callable[[], Any]) -> Any:
        """The result of ``work``, or None where Redis fails; it is then left alone for a moment."""
        if time.monotonic() < self._silent_until:
            return None
        try:
            return work()
        except self._failures as error:
            self._silent_until = time.monotonic() + self._timeout
            self._known.clear()
            _LOG.warning("Redis failed, PostgreSQL is read instead: %s", error)
            return None

    def _current(self, requests: Sequence[ViewRequest]) -> list[list[Row] | None]:
        with self._redis.pipeline(transaction=True) as pipeline:
            for request in requests:
                keys = [_key(values) for values in zip(*request.key_values, strict=True)]
                pipeline.hmget(self._name(request.table), [_VERSION, *keys])
            answers = pipeline.execute()
        result: list[list[Row] | None] = []
        for request, (version, *blobs) in zip(requests, answers, strict=True):
            if version is None or not self._is_current(request.table, version.decode()):
                result.append(None)
                continue
            order = list(request.table.feature)
            positions = [order.index(name) + 1 for name in request.features]
            binary = [n for n, name in enumerate(request.features, 1) if request.table.feature[name].sql == "bytea"]
            result.append([_decode(blob, positions, binary) for blob in blobs])
        return result

    def _is_current(self, table: ViewTable, version: str) -> bool:
        known, asked = self._known.get(table.name, ("", 0.0))
        if version == known and time.monotonic() - asked < self._verify_seconds:
            return True
        try:
            known = self._durable.versions([table], timeout=self._timeout).get(table.name, "")
        except OnlineStoreUnavailableError as error:
            # The last version known here is still the last one: without PostgreSQL nothing is written.
            _LOG.warning("Redis is read without asking whether its copy is current: %s", error)
        self._known[table.name] = (known, time.monotonic())
        return version == known

    def _copy(self, tables: Sequence[ViewTable]) -> None:
        with ExitStack() as locks, self._redis.pipeline(transaction=True) as switch:
            versions = {}
            for table in tables:
                name = self._name(table)
                lock = self._redis.lock(f"{name}:copying", timeout=_COPY_LOCK_SECONDS, blocking=False)
                if not lock.acquire():
                    continue
                locks.callback(lock.release)
                versions[table.name], staged = self._stage(table)
                # If the staged rows are gone by then, this fails, and the old ones stay with their version.
                switch.rename(staged, name)
                switch.expire(name, _KEPT_SECONDS)
            switch.execute()
            for name, version in versions.items():
                self._known[name] = (version, time.monotonic())

    def _stage(self, table: ViewTable) -> tuple[str, str]:
        """Write the table's rows and version under a name of their own; the version and that name."""
        version, rows = self._durable.snapshot(table)
        keys = len(table.keys)
        binary = [n for n, column in enumerate(table.features, 1) if column.sql == "bytea"]
        staged = f"{self._name(table)}:{uuid.uuid4().hex}"
        with self._redis.pipeline(transaction=False) as pipeline:
            # First: rows that go on into a hash which was evicted meanwhile make one without a version.
            pipeline.hset(staged, _VERSION, version)
            pipeline.expire(staged, _STAGED_SECONDS)
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                pipeline.hset(staged, mapping={_key(row[:keys]): _encode(row[keys:], binary) for row in chunk})
            pipeline.execute()
        return version, staged

    def _name(self, table: ViewTable) -> str:
        return f"{self._project}:{table.schema}.{table.name}:{table.fingerprint}:rows"


def _key(values: tuple[Any, ...]) -> str:
    return json.dumps([value.hex() if isinstance(value, bytes) else value for value in values])


def _encode(row: tuple[Any, ...], binary: list[int]) -> str:
    """Event time and features as JSON, which gives numbers back to the bit."""
    values = list(row)
    values[0] = row[0].timestamp()
    for n in binary:
        values[n] = None if values[n] is None else values[n].hex()
    return json.dumps(values)


def _decode(blob: bytes | None, positions: list[int], binary: list[int]) -> Row:
    if blob is None:
        return None
    stored = json.loads(blob)
    values = [datetime.fromtimestamp(stored[0], UTC), *[stored[n] for n in positions]]
    for n in binary:
        values[n] = None if values[n] is None else bytes.fromhex(values[n])
    return tuple(values)
