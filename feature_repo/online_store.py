"""Feast's online store, ours: one row per key, one round trip per request, Redis in front if there is one."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

from feast import Entity, utils
from feast.feature_view import FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.supported_async_methods import SupportedAsyncMethods
from feast.infra.utils.postgres.postgres_config import PostgreSQLConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey as EntityKeyProto
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import RepoConfig
from pydantic import Field, field_validator

from feature_repo.online_layout import Row, ViewRequest, ViewTable
from feature_repo.online_postgres import PostgresRows
from feature_repo.online_redis import RedisRows
from feature_repo.online_rows import Change, WrittenRow

_Written = tuple[EntityKeyProto, dict[str, ValueProto], datetime, datetime | None]
_Read = tuple[datetime | None, dict[str, ValueProto] | None]


class RowOnlineStoreConfig(PostgreSQLConfig):
    """PostgreSQL's options (``min_conn`` and ``max_conn`` bound the pool), and Redis's.

    For Redis alone, name Feast's own store instead: ``type: redis`` with its ``connection_string``.
    """

    type: Literal["feature_repo.online_store.RowOnlineStore"] = "feature_repo.online_store.RowOnlineStore"
    pool_timeout: float = Field(default=3.0, gt=0)
    """Seconds to wait for a connection, three times."""
    statement_timeout: float = Field(default=0.0, ge=0)
    """Seconds that PostgreSQL may take for one statement, waiting for locks included; 0 for the server's own limit."""
    redis_url: str = Field(default="", repr=False)
    """``redis://…``; empty for PostgreSQL alone."""
    redis_timeout: float = Field(default=0.5, gt=0)
    """Seconds to wait for Redis before PostgreSQL is read; after a failure Redis is left alone as long."""
    redis_verify_seconds: float = Field(default=1.0, ge=0)
    """How long Redis may be believed without asking PostgreSQL whether there is something newer."""

    @field_validator("redis_url", mode="before")
    @classmethod
    def _unset_means_none(cls, value: str | None) -> str:
        # The Feast CLI leaves a ${VARIABLE} that is not set as it is written, and an empty one reads as null.
        return "" if value is None or value.startswith("${") else value


class RowOnlineStore(OnlineStore):
    """Used through ``FeatureStore``: ``materialize``, ``push``, ``get_online_features``.

    A key that the store does not know gives missing values with the status NOT_FOUND.

    Raises:
        OnlineStoreUnavailableError: (all methods) PostgreSQL is needed and did not answer in three attempts, or a
            statement took longer than ``statement_timeout``.
        LookupError: (reads and writes) the feature view was not applied; as ``ChangedDefinitionError``, it was applied
            with other types than this process's registry cache knows.
    """

    def __init__(self) -> None:
        self._postgres: PostgresRows | None = None
        self._redis: RedisRows | None = None
        self._lock = threading.Lock()
        self._held = threading.local()

    @property
    def async_supported(self) -> SupportedAsyncMethods:
        return SupportedAsyncMethods(read=True, write=True)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[_Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Store ``data`` in one transaction: the features that each row gives; others keep their values.

        A row has one time, that of its newest write. What is older than that changes nothing.
        """
        view = ViewTable.of(config, table)
        self._write(config, [Change(view, [_row(view, *written) for written in data])])
        if progress:
            progress(len(data))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[_Read]:
        """Per key its event time and features, or two Nones."""
        view = ViewTable.of(config, table)
        keys = [_key(view, entity_key) for entity_key in entity_keys]
        columns = tuple(list(column) for column in zip(*keys, strict=True)) or tuple([] for _ in view.keys)
        request = ViewRequest(view, _known(view, requested_features), columns)
        return _as_protos(request, self.read_rows(config, [request])[0])

    def read_rows(self, config: RepoConfig, requests: Sequence[ViewRequest]) -> list[list[Row]]:
        """The rows of several views in one round trip: what all reads come down to."""
        postgres, redis = self._backends(config)
        return postgres.read(requests) if redis is None else redis.read(requests)

    @contextmanager
    def together(self, config: RepoConfig) -> Iterator[None]:
        """Keep what this thread writes and removes in the block, and do it in one transaction at the block's end.

        A reader sees all of it or none. Nothing is done where the block raises.
        """
        changes: list[Change] = []
        self._held.changes = changes
        try:
            yield
        finally:
            self._held.changes = None
        if changes:
            self._write(config, changes)

    def remove(
        self, config: RepoConfig, view: Any, *, later_than: datetime, keep: Mapping[str, Sequence[Any]] | None = None
    ) -> None:
        """Remove rows of ``view``: those of a later event time and, if ``keep`` is given, those of other keys.

        Args:
            keep: equally long columns by join key.
        """
        table = ViewTable.of(config, view)
        kept = None if keep is None else tuple(list(keep[key.name]) for key in table.keys)
        self._write(config, [Change(table, later_than=later_than, keep=kept)])

    def keys(self, config: RepoConfig, view: Any) -> list[dict[str, Any]]:
        """The keys that ``view`` has rows of, by join key, as they are in PostgreSQL."""
        table = ViewTable.of(config, view)
        names = [key.name for key in table.keys]
        return [dict(zip(names, key, strict=True)) for key in self._backends(config)[0].keys(table)]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],  # noqa: ARG002 - Feast's signature
        entities_to_keep: Sequence[Entity],  # noqa: ARG002
        partial: bool,  # noqa: ARG002
    ) -> None:
        """Create, alter and drop tables. Values of features whose type stays are kept."""
        postgres, redis = self._backends(config)
        gone = [ViewTable.of(config, view) for view in tables_to_delete]
        kept = [ViewTable.of(config, view) for view in tables_to_keep]
        postgres.update(config.online_store.db_schema, kept, [table.name for table in gone])
        if redis is not None:
            redis.delete(gone)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Drop the tables."""
        self.update(config, tables, [], entities, [], partial=False)

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[_Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKeyProto],
        requested_features: list[str] | None = None,
    ) -> list[_Read]:
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    async def close(self) -> None:
        """Feast's hook for servers."""
        await asyncio.to_thread(self.close_connections)

    def close_connections(self) -> None:
        """Close all connections. A later call opens new ones."""
        for backend in (self._postgres, self._redis):
            if backend is not None:
                backend.close()

    def _read_features_per_fv(
        self,
        config: RepoConfig,
        grouped_refs: list[tuple[FeatureView, list[str]]],
        join_key_values: dict[str, list[ValueProto]],
        entity_name_to_join_key_map: dict[str, str],
        online_features_response: Any,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> None:
        """Feast's hook for stores that read all views at once."""
        requests = []
        for view, features in grouped_refs:
            table = ViewTable.of(config, view)
            values = utils._get_table_entity_values(view, entity_name_to_join_key_map, join_key_values)
            if missing := [key.name for key in table.keys if key.name not in values]:
                raise KeyError(f"{view.name} is read by {', '.join(missing)}, which the entity rows lack")
            keys = tuple([key.to_python(value) for value in values[key.name]] for key in table.keys)
            requests.append(ViewRequest(table, _known(table, features), keys))
        for (view, features), request, rows in zip(
            grouped_refs, requests, self.read_rows(config, requests), strict=True
        ):
            utils._populate_response_from_feature_data(
                features,
                _as_protos(request, rows),
                [[n] for n in range(len(rows))],
                online_features_response,
                full_feature_names,
                view,
                len(rows),
                include_feature_view_version_metadata,
            )

    async def _read_features_per_fv_async(self, *args: Any, **kwargs: Any) -> None:
        await asyncio.to_thread(self._read_features_per_fv, *args, **kwargs)

    def _write(self, config: RepoConfig, changes: list[Change]) -> None:
        held: list[Change] | None = getattr(self._held, "changes", None)
        if held is not None:
            held += changes
            return
        postgres, redis = self._backends(config)
        postgres.write(changes)
        if redis is not None:
            redis.copy(list({change.table.name: change.table for change in changes}.values()))

    def _backends(self, config: RepoConfig) -> tuple[PostgresRows, RedisRows | None]:
        with self._lock:
            options = config.online_store
            if self._postgres is None:
                self._postgres = PostgresRows(
                    options, pool_timeout=options.pool_timeout, statement_timeout=options.statement_timeout
                )
            if self._redis is None and options.redis_url:
                self._redis = RedisRows(
                    options.redis_url,
                    self._postgres,
                    project=config.project,
                    verify_seconds=options.redis_verify_seconds,
                    timeout=options.redis_timeout,
                )
            return self._postgres, self._redis


def _row(
    view: ViewTable,
    entity_key: EntityKeyProto,
    values: dict[str, ValueProto],
    event: datetime,
    created: datetime | None,
) -> WrittenRow:
    features = {c.name: c.to_python(values[c.name]) for c in view.features if c.name in values}
    return WrittenRow(_key(view, entity_key), _utc(event), None if created is None else _utc(created), features)


def _key(view: ViewTable, entity_key: EntityKeyProto) -> tuple[Any, ...]:
    values = dict(zip(entity_key.join_keys, entity_key.entity_values, strict=True))
    return tuple(key.to_python(values[key.name]) for key in view.keys)


def _as_protos(request: ViewRequest, rows: list[Row]) -> list[_Read]:
    columns = [(name, request.table.feature[name].to_proto) for name in request.features]
    return [
        (None, None)
        if row is None
        else (row[0], {name: to_proto(value) for (name, to_proto), value in zip(columns, row[1:], strict=True)})
        for row in rows
    ]


def _known(view: ViewTable, requested: list[str] | None) -> tuple[str, ...]:
    return tuple(view.feature) if requested is None else tuple(name for name in requested if name in view.feature)


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
