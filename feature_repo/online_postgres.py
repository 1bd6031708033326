"""The online store's tables in PostgreSQL: pooled connections, three attempts, one round trip per read."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

import psycopg
from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig
from psycopg_pool import ConnectionPool, PoolTimeout

from feature_repo.database import NOTICING
from feature_repo.online_layout import EVENT, Row, ViewRequest, ViewTable, quote, select
from feature_repo.online_rows import Change, WrittenRow, batches

T = TypeVar("T")

ATTEMPTS = 3
FIRST_DELAY = 0.1
APPLICATION = "feast-online"
_VERSIONS = "materialized_versions"
_INCOMING = "incoming"


class OnlineStoreUnavailableError(RuntimeError):
    """The online store's server did not answer; the message names it and says what to do."""


class ChangedDefinitionError(LookupError):
    """A feature's type in the online store is not the one that this process knows; the message says what to do."""


class PostgresRows:
    """Reads and writes rows of view tables. Safe to share between threads."""

    def __init__(self, options: PostgreSQLConfig, *, pool_timeout: float, statement_timeout: float) -> None:
        self._options = options
        self._pool_timeout = pool_timeout
        self._statement_timeout = statement_timeout
        self._pool: ConnectionPool | None = None
        self._lock = threading.Lock()

    def read(self, requests: Sequence[ViewRequest]) -> list[list[Row]]:
        """The rows of each request, in the order of its keys, all from one statement."""
        query = select(tuple((request.table, request.features) for request in requests))
        keys = [values for request in requests for values in request.key_values]
        expected = [(request.table, (EVENT, *request.features)) for request in requests]

        def work(connection: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
            cursor = connection.execute(query, keys, binary=True)
            _require_types(cursor, expected)
            return cursor.fetchall()

        rows = self._run(work)
        result: list[list[Row]] = []
        start = 0
        for request in requests:
            end = start + 1 + len(request.features)
            result.append([None if row[start] is None else row[start:end] for row in rows])
            start = end
        return result

    def write(self, changes: Sequence[Change]) -> None:
        """Make ``changes``, in their order, in one transaction: a reader sees all of them or none."""
        tables = {change.table.name: change.table for change in changes}

        def work(connection: psycopg.Connection[Any]) -> None:
            with connection.transaction(), connection.cursor() as cursor:
                # First, because its lock lets one writer of a view wait for the other, and always in the same order,
                # so that two writers of several views never wait for each other.
                for name in sorted(tables):
                    _new_version(cursor, tables[name])
                for change in changes:
                    _make(cursor, change)

        self._run(work)

    def keys(self, table: ViewTable) -> list[tuple[Any, ...]]:
        """The keys of all rows."""
        query = f"SELECT {', '.join(quote(key.name) for key in table.keys)} FROM {table.qualified}"  # noqa: S608
        return self._run(lambda connection: connection.execute(query, binary=True).fetchall())

    def snapshot(self, table: ViewTable) -> tuple[str, list[tuple[Any, ...]]]:
        """The view's version and all its rows (keys, event time, features) as they are at one moment."""
        names = (*(key.name for key in table.keys), EVENT, *table.feature)
        query = f"SELECT {', '.join(map(quote, names))} FROM {table.qualified}"  # noqa: S608

        def work(connection: psycopg.Connection[Any]) -> tuple[str, list[tuple[Any, ...]]]:
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                version = connection.execute(_select_versions(table.schema), [[table.name]]).fetchall()
                cursor = connection.execute(query, binary=True)
                _require_types(cursor, [(table, names)])
                return (version[0][1] if version else ""), cursor.fetchall()

        return self._run(work)

    def versions(self, tables: Sequence[ViewTable], *, timeout: float) -> dict[str, str]:
        """The present version of each view by table name, in one quick attempt. Each write makes a new one."""
        query, names = _select_versions(tables[0].schema), [table.name for table in tables]
        rows = self._run(lambda connection: connection.execute(query, [names]).fetchall(), attempts=1, timeout=timeout)
        return dict(rows)

    def update(self, schema: str, keep: Sequence[ViewTable], delete: Iterable[str]) -> None:
        """Bring the tables to their views' present columns. A table whose keys changed starts empty."""

        def work(connection: psycopg.Connection[Any]) -> None:
            with connection.transaction(), connection.cursor() as cursor:
                # CREATE … IF NOT EXISTS of two sessions at once can fail.
                cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [schema])
                cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}")
                cursor.execute(
                    f"CREATE TABLE IF NOT EXISTS {quote(schema)}.{_VERSIONS} "
                    "(table_name text PRIMARY KEY, version uuid)"
                )
                for name in delete:
                    cursor.execute(f"DROP TABLE IF EXISTS {quote(schema)}.{quote(name)}")
                    cursor.execute(f"DELETE FROM {quote(schema)}.{_VERSIONS} WHERE table_name = %s", [name])  # noqa: S608
                for table in keep:
                    if _migrate(cursor, table):
                        _new_version(cursor, table)

        self._run(work)

    def close(self) -> None:
        """Close the connections. A later call opens new ones."""
        if self._pool is not None:
            self._discard(self._pool)

    def _run(
        self,
        work: Callable[["psycopg.Connection[Any]"], T],
        *,
        attempts: int = ATTEMPTS,
        timeout: float | None = None,
    ) -> T:
        for attempt in range(attempts):
            if attempt:
                time.sleep(FIRST_DELAY * 4 ** (attempt - 1))
            pool = self._connections()
            try:
                with pool.connection(timeout) as connection:
                    return work(connection)
            except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as error:
                raise LookupError(
                    f"the online store does not know these views yet ({error.diag.message_primary}): "
                    "apply the feature repository first"
                ) from error
            except psycopg.errors.QueryCanceled as error:
                # The server is there and holds the statement up: another attempt would take as long again.
                raise OnlineStoreUnavailableError(
                    f"the online store at {self._where} did not answer in time ({error.diag.message_primary}): "
                    "look in pg_stat_activity for what it waits for, then try again"
                ) from error
            except (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.FeatureNotSupported) as error:
                # A fresh pool: the other connections were lost with this one, or hold plans for columns of another
                # type. One that is only busy is given its time; but after a failure, a pool waits longer and longer
                # before it connects again, and the next call is not to wait with it.
                if not isinstance(error, PoolTimeout) or attempt == attempts - 1:
                    self._discard(pool)
                last = error
        raise OnlineStoreUnavailableError(
            f"the online store at {self._where} did not answer in {attempts} attempts ({str(last).strip()}): check "
            "that PostgreSQL runs and that POSTGRES_* name it, then try again"
        ) from last

    @property
    def _where(self) -> str:
        return f"{self._options.host}:{self._options.port}/{self._options.database}"

    def _discard(self, pool: ConnectionPool) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.close()

    def _connections(self) -> ConnectionPool:
        with self._lock:
            if self._pool is None:
                options = self._options
                milliseconds = round(1_000 * self._statement_timeout)
                self._pool = ConnectionPool(
                    min_size=options.min_conn,
                    max_size=options.max_conn,
                    timeout=self._pool_timeout,
                    open=True,
                    kwargs={
                        "host": options.host,
                        "port": options.port,
                        "dbname": options.database,
                        "user": options.user,
                        "password": options.password,
                        "sslmode": options.sslmode,
                        "sslkey": options.sslkey_path,
                        "sslcert": options.sslcert_path,
                        "sslrootcert": options.sslrootcert_path,
                        **NOTICING,
                        "keepalives_idle": options.keepalives_idle or NOTICING["keepalives_idle"],
                        "application_name": APPLICATION,
                        # Sent, 0 would lift the limit that the role or the database has.
                        "options": "-ctimezone=UTC" + (f" -cstatement_timeout={milliseconds}" if milliseconds else ""),
                        "autocommit": True,  # a read is one round trip, without BEGIN and COMMIT
                        "prepare_threshold": 1,
                    },
                )
            return self._pool


def _new_version(cursor: "psycopg.Cursor[Any]", table: ViewTable) -> None:
    # Not a counter: one that starts again after a teardown would come to values that a cache still knows.
    cursor.execute(
        f"INSERT INTO {quote(table.schema)}.{_VERSIONS} VALUES (%s, gen_random_uuid()) "  # noqa: S608
        "ON CONFLICT (table_name) DO UPDATE SET version = EXCLUDED.version",
        [table.name],
    )


def _make(cursor: "psycopg.Cursor[Any]", change: Change) -> None:
    table = change.table
    if change.later_than is not None:
        cursor.execute(f"DELETE FROM {table.qualified} WHERE {EVENT} > %s", [change.later_than])  # noqa: S608
    if change.keep is not None:
        cursor.execute(table.remove_others(), change.keep)
    for names, rows in batches(change.rows):
        _take_over(cursor, table.part(names), rows)


def _take_over(cursor: "psycopg.Cursor[Any]", table: ViewTable, rows: Iterable[WrittenRow]) -> None:
    names = ", ".join(quote(name) for name in table.columns)
    present = f"SELECT {names} FROM {table.qualified}"  # noqa: S608
    _require_types(cursor.execute(f"{present} LIMIT 0"), [(table, tuple(table.columns))])
    cursor.execute(f"CREATE TEMPORARY TABLE {_INCOMING} AS {present} WITH NO DATA")
    with cursor.copy(f"COPY {_INCOMING} FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(list(table.columns.values()))
        for row in rows:
            copy.write_row((*row.key, row.event, row.created, *(row.features[name] for name in table.feature)))
    cursor.execute(table.upsert(_INCOMING))
    cursor.execute(f"DROP TABLE {_INCOMING}")


def _select_versions(schema: str) -> str:
    return f"SELECT table_name, version::text FROM {quote(schema)}.{_VERSIONS} WHERE table_name = ANY(%s)"  # noqa: S608


def _require_types(cursor: "psycopg.Cursor[Any]", expected: Iterable[tuple[ViewTable, tuple[str, ...]]]) -> None:
    """Refuse columns of other types than this process knows them by: values would be taken for what they are not."""
    result, position = cursor.pgresult, 0
    assert result is not None  # noqa: S101 - the statement was executed
    for table, names in expected:
        for name, oid in zip(names, _oids(table, names), strict=True):
            if result.ftype(position) != oid:
                raise ChangedDefinitionError(
                    f"{name} in {table.name} is no longer a {table.columns[name]}: its definition changed, and this "
                    "process still knows the old one. Call refresh_registry(), or wait until the registry's cache "
                    "expires (cache_ttl_seconds), and make objects that hold feature views anew"
                )
            position += 1


@cache
def _oids(table: ViewTable, names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(_oid(table.columns[name]) for name in names)


def _oid(sql: str) -> int:
    type_ = psycopg.adapters.types[sql.removesuffix("[]")]
    return type_.array_oid if sql.endswith("[]") else type_.oid


def _migrate(cursor: "psycopg.Cursor[Any]", table: ViewTable) -> bool:
    """Create or alter the table; whether anything was to be done."""
    rows = cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod), attnum = ANY(i.indkey) FROM pg_attribute a "
        "LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [table.qualified],
    ).fetchall()
    found = {name: sql for name, sql, _ in rows}
    wanted = table.columns
    if found == wanted:
        return False
    keys = {name: sql for name, sql, is_key in rows if is_key}
    if keys != {key.name: key.sql for key in table.keys} or EVENT not in found:
        cursor.execute(f"DROP TABLE IF EXISTS {table.qualified}")
        cursor.execute(table.create())
        return True
    changes = [f"DROP COLUMN {quote(name)}" for name, sql in found.items() if wanted.get(name) != sql]
    changes += [f"ADD COLUMN {quote(name)} {sql}" for name, sql in wanted.items() if found.get(name) != sql]
    cursor.execute(f"ALTER TABLE {table.qualified} {', '.join(changes)}")
    return True
