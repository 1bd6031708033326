"""A Feast retrieval job that stays in Arrow: as a table, as a stream of batches, or as a table in PostgreSQL."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import quote as percent_encode

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import PostgreSQLRetrievalJob
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import SavedDatasetPostgreSQLStorage
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from feature_repo.database import PostgresSettings

ENTITY_TABLE = "uploaded_entity_rows"
_SAVED_ROWS = "rows_to_save"
# Sorting a frame of half a million rows on disk takes as long as joining it; compiling a statement never pays here.
# Of keys of several columns PostgreSQL takes a tenth to be distinct at most: it would look each row up in a cache that
# never hits, instead of hashing the table once, as soon as the table is large.
_SESSION = ("SET LOCAL jit = off", "SET LOCAL work_mem = '256MB'", "SET LOCAL enable_memoize = off")


class LazyMetadata(RetrievalMetadata):
    """Feast's description of a retrieval, whose bounds are asked for only where they are used: by saved datasets."""

    def __init__(
        self, features: list[str], keys: list[str], bounds: Callable[[], tuple[datetime | None, datetime | None]]
    ) -> None:
        self.features = features
        self.keys = keys
        self._read_bounds = bounds

    @cached_property
    def _bounds(self) -> tuple[datetime | None, datetime | None]:
        return self._read_bounds()

    @property
    def min_event_timestamp(self) -> datetime | None:  # type: ignore[override]
        """The time of the first entity row."""
        return self._bounds[0]

    @property
    def max_event_timestamp(self) -> datetime | None:  # type: ignore[override]
        """The time of the last entity row."""
        return self._bounds[1]


class ArrowRetrievalJob(PostgreSQLRetrievalJob):
    """A query whose result is read as Arrow over ADBC.

    Args:
        entity_rows: uploaded by COPY to the temporary table ``ENTITY_TABLE`` first, if given.
        column_names: of the result; PostgreSQL cuts names off after 63 bytes.
        set_based: the query joins whole tables whose sizes the planner may misjudge.
    """

    def __init__(
        self,
        *,
        entity_rows: pa.Table | None = None,
        column_names: Sequence[str] | None = None,
        set_based: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._entity_rows = entity_rows
        self._column_names = column_names
        self._set_based = set_based

    def to_arrow_batches(self, timeout: int | None = None, snapshot: str | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of ``to_arrow`` in the same order, in batches, on-demand features included.

        Neither side holds the whole result; at least one batch comes, if only to carry the schema. The connection is
        open until the iterator is exhausted or closed.

        Args:
            timeout: seconds that the query may take.
            snapshot: read the database as another session sees it, which exported this with ``pg_export_snapshot()``.
        """
        with self._reader(timeout, snapshot) as reader:
            none_yet = True
            for batch in reader:
                if batch.num_rows:
                    none_yet = False
                    yield self._finished(pa.Table.from_batches([batch]))
            if none_yet:
                yield self._finished(reader.schema.empty_table())

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool | None = False, timeout: int | None = None
    ) -> None:
        """Write the result to the table of ``storage`` within PostgreSQL; on-demand features go there by COPY.

        Raises:
            ValueError: ``storage`` is not a PostgreSQL table.
            adbc_driver_manager.Error: the table exists and ``allow_overwrite`` is not set.
        """
        if not isinstance(storage, SavedDatasetPostgreSQLStorage):
            raise ValueError(f"{type(storage).__name__} is not a PostgreSQL table: use SavedDatasetPostgreSQLStorage")
        table = storage.postgres_options._table
        with connected(self.config) as connection, connection.cursor() as cursor:
            if self.on_demand_feature_views:
                batches = self.to_arrow_batches(timeout)
                first = next(batches)
                reader = pa.RecordBatchReader.from_batches(first.schema, _chain(first, batches))
                cursor.adbc_ingest(_SAVED_ROWS, reader, mode="create", temporary=True)
                query = f"SELECT * FROM {_SAVED_ROWS}"  # noqa: S608
            else:
                query = self._prepared(cursor, timeout)
            if allow_overwrite:
                cursor.execute(f"DROP TABLE IF EXISTS {table}")
            cursor.execute(f"CREATE TABLE {table} AS {query}")
            connection.commit()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with self._reader(timeout) as reader:
            return self._typed(reader.read_all())

    @contextmanager
    def _reader(self, timeout: int | None, snapshot: str | None = None) -> Iterator[pa.RecordBatchReader]:
        with connected(self.config) as connection, connection.cursor() as cursor:
            if snapshot:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                cursor.execute("SET TRANSACTION SNAPSHOT '{}'".format(snapshot.replace("'", "''")))
            cursor.execute(self._prepared(cursor, timeout))
            with cursor.fetch_record_batch() as reader:
                yield reader

    def _prepared(self, cursor: Any, timeout: int | None) -> str:
        """The query, after what has to be in the session for it."""
        for setting in _SESSION:
            cursor.execute(setting)
        if self._set_based:
            # A nested loop over rows without an index is the one plan that does not end.
            cursor.execute("SET LOCAL enable_nestloop = off")
        if timeout:
            cursor.execute(f"SET LOCAL statement_timeout = {int(timeout * 1000)}")
        if self._entity_rows is not None:
            cursor.adbc_ingest(ENTITY_TABLE, self._entity_rows, mode="create", temporary=True)
            cursor.execute(f"ANALYZE {ENTITY_TABLE}")
        return self.to_sql()

    def _typed(self, table: pa.Table) -> pa.Table:
        """Arrow types for what the driver cannot name: numeric as float64, as Feast has it; anything else as text."""
        columns = [_plain(column) for column in table.columns]
        return pa.table(columns, names=list(self._column_names or table.column_names))

    def _finished(self, table: pa.Table) -> pa.RecordBatch:
        table = self._typed(table)
        if self.on_demand_feature_views:
            table = _TableJob(self, table).to_arrow()
        columns = [column.combine_chunks() for column in table.columns]
        return pa.RecordBatch.from_arrays(columns, schema=table.schema)


class _TableJob(RetrievalJob):
    """Rows that are here already, so that Feast's base class adds the on-demand features of ``job`` to them."""

    def __init__(self, job: ArrowRetrievalJob, table: pa.Table) -> None:
        self._job = job
        self._table = table

    full_feature_names = property(lambda self: self._job.full_feature_names)
    on_demand_feature_views = property(lambda self: self._job.on_demand_feature_views)
    metadata = property(lambda self: self._job.metadata)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        del timeout
        return self._table


@contextmanager
def connected(config: RepoConfig) -> Iterator[Any]:
    """A connection to the offline store's database and schema, whose session reads times without a zone as UTC."""
    options = config.offline_store
    settings = PostgresSettings(
        host=options.host,
        port=options.port,
        database=options.database,
        user=options.user,
        password=options.password,
        sslmode=options.sslmode or "prefer",
    )
    files = {"sslkey": options.sslkey_path, "sslcert": options.sslcert_path, "sslrootcert": options.sslrootcert_path}
    url = settings.url + "".join(f"&{name}={percent_encode(path)}" for name, path in files.items() if path)
    with adbc.connect(url) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('search_path', $1, false)", [_search_path(options)])
            cursor.fetchall()
        connection.commit()
        yield connection


def fetch(config: RepoConfig, query: str, parameters: Sequence[Any] = ()) -> pa.Table:
    """The rows of a small query."""
    with connected(config) as connection, connection.cursor() as cursor:
        cursor.execute(query, list(parameters) or None)
        return cursor.fetch_arrow_table()


def _search_path(options: Any) -> str:
    schema = (options.db_schema or options.user).strip()
    return schema if schema == "public" else f"{schema},public"


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not isinstance(column.type, pa.BaseExtensionType):
        return column
    storage = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    is_number = isinstance(column.type, pa.OpaqueType) and column.type.type_name == "numeric"
    return storage.cast(pa.float64()) if is_number else storage


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest
