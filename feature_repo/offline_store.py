"""Feast's PostgreSQL offline store with a point-in-time join that is right and stays in Arrow.

The stock store numbers entity rows by joining their keys without a separator, so that (1, 11) and (11, 1) become one
row, and reads results cell by cell. Here each entity row looks up, per feature view, the newest feature row that is
not newer than itself: exactly one output row per entity row, in the entity rows' order.
"""

from datetime import UTC, datetime
from typing import Any, Literal

import adbc_driver_postgresql.dbapi as adbc
import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_view import FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
    PostgreSQLRetrievalJob,
)
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import FeatureViewQueryContext
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig

from feature_repo.database import PostgresSettings

_ENTITY_TABLE = "entity_rows"
_ALL_TIMES = (datetime(1800, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC))


class PointInTimePostgresOfflineStoreConfig(PostgreSQLOfflineStoreConfig):
    """The stock store's options under this store's name."""

    type: Literal["feature_repo.offline_store.PointInTimePostgresOfflineStore"] = (
        "feature_repo.offline_store.PointInTimePostgresOfflineStore"  # type: ignore[assignment]
    )


class PointInTimePostgresOfflineStore(PostgreSQLOfflineStore):
    """``get_historical_features`` as one SQL statement; every result comes as Arrow over ADBC."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        **_date_range: Any,
    ) -> RetrievalJob:
        """See Feast's contract. A ``entity_df`` in SQL uploads nothing; a DataFrame is uploaded by COPY.

        Raises:
            ValueError: ``entity_df`` is None: retrieval by date range alone is not offered by this store.
            FeastEntityDFMissingColumnsError: the entity rows lack a join key.
        """
        if entity_df is None:
            raise ValueError("get_historical_features needs entity_df, a DataFrame or a SQL query, with this store")
        if isinstance(entity_df, str):
            uploaded, entity_rows = None, f"({entity_df})"
            schema = _fetch(config, f"SELECT * FROM {entity_rows} e LIMIT 0").schema  # noqa: S608 - the caller's query
        else:
            uploaded, entity_rows = pa.Table.from_pandas(entity_df, preserve_index=False), _quote(_ENTITY_TABLE)
            schema = uploaded.schema
        timestamp = offline_utils.infer_event_timestamp_from_entity_df(dict(schema.empty_table().to_pandas().dtypes))
        join_keys = offline_utils.get_expected_join_keys(project, feature_views, registry)
        if missing := join_keys - set(schema.names):
            raise FeastEntityDFMissingColumnsError(join_keys, missing)
        views = offline_utils.get_feature_view_query_context(
            # The bounds are for stores that scan; an index lookup does not need them.
            feature_refs,
            feature_views,
            registry,
            project,
            _ALL_TIMES,
        )
        return ArrowRetrievalJob(
            query=point_in_time_query(
                entity_rows,
                schema.names,
                timestamp,
                views,
                full_feature_names=full_feature_names,
                filter_by_created_timestamp=filter_by_created_timestamp,
            ),
            config=config,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=RetrievalMetadata(features=feature_refs, keys=[n for n in schema.names if n != timestamp]),
            entity_rows=uploaded,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row per key between the dates, for materialization."""
        stock = PostgreSQLOfflineStore.pull_latest_from_table_or_query(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            start_date,
            end_date,
        )
        return ArrowRetrievalJob(query=stock.to_sql(), config=config, full_feature_names=False)


class ArrowRetrievalJob(PostgreSQLRetrievalJob):
    """A query whose result is read as Arrow, after uploading ``entity_rows`` to a temporary table if there are any."""

    def __init__(self, *, entity_rows: pa.Table | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._entity_rows = entity_rows

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with self._query_generator() as query:
            return _fetch(self.config, query, entity_rows=self._entity_rows, timeout=timeout)


def point_in_time_query(
    entity_rows: str,
    entity_columns: list[str],
    timestamp: str,
    views: list[FeatureViewQueryContext],
    *,
    full_feature_names: bool,
    filter_by_created_timestamp: bool,
) -> str:
    """The statement that gives each entity row, in order, the newest features not newer than itself.

    Args:
        entity_rows: a table name or a parenthesised query.
        entity_columns: its columns, all of which are kept.
        timestamp: the one that holds the time of each entity row.
        views: Feast's description of the feature views and the features wanted of each.
        full_feature_names: prefix each feature with its view's name.
        filter_by_created_timestamp: only see feature rows that had been created by then.
    """
    selected = [f"e.{_quote(column)}" for column in entity_columns]
    joins = []
    for number, view in enumerate(views):
        alias = f"v{number}"
        for feature in view.features:
            name = view.field_mapping.get(feature, feature)
            output = f"{view.name}__{name}" if full_feature_names else name
            selected.append(f"{alias}.{_quote(feature)} AS {_quote(output)}")
        joins.append(_newest_row(view, alias, timestamp, filter_by_created_timestamp))
    return (
        f"SELECT {', '.join(selected)}\n"  # noqa: S608 - identifiers are quoted, the rest comes from the registry
        f"FROM (SELECT *, row_number() OVER () AS entity_row_number FROM {entity_rows} q) e\n"
        + "\n".join(joins)
        + "\nORDER BY e.entity_row_number"
    )


def _newest_row(view: FeatureViewQueryContext, alias: str, timestamp: str, only_created: bool) -> str:
    """Newest by event time; of several rows with the same event time, the one created last."""
    event_time = f"s.{_quote(view.timestamp_field)}"
    conditions = [f"{event_time} <= e.{_quote(timestamp)}"]
    if view.ttl:
        conditions.append(f"{event_time} >= e.{_quote(timestamp)} - interval '{view.ttl} seconds'")
    for selection, join_key in zip(view.entity_selections, view.entities, strict=True):
        source_column = selection.rsplit(" AS ", 1)[0]
        conditions.append(f"s.{_quote(source_column)} = e.{_quote(join_key)}")
    newest = [f"{event_time} DESC"]
    if view.created_timestamp_column:
        created = f"s.{_quote(view.created_timestamp_column)}"
        newest.append(f"{created} DESC NULLS LAST")
        if only_created:
            conditions.append(f"{created} <= e.{_quote(timestamp)}")
    features = ", ".join(f"s.{_quote(feature)}" for feature in view.features)
    return (
        f"LEFT JOIN LATERAL (SELECT {features} FROM {view.table_subquery} s "  # noqa: S608
        f"WHERE {' AND '.join(conditions)} ORDER BY {', '.join(newest)} LIMIT 1) {alias} ON TRUE"
    )


def _fetch(
    config: RepoConfig, query: str, *, entity_rows: pa.Table | None = None, timeout: int | None = None
) -> pa.Table:
    options = config.offline_store
    settings = PostgresSettings(
        host=options.host,
        port=options.port,
        database=options.database,
        user=options.user,
        password=options.password,
        sslmode=options.sslmode or "prefer",
    )
    with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
        if timeout:
            cursor.execute(f"SET LOCAL statement_timeout = {int(timeout) * 1000}")
        if entity_rows is not None:
            cursor.adbc_ingest(_ENTITY_TABLE, entity_rows, mode="create", temporary=True)
        cursor.execute(query)
        return cursor.fetch_arrow_table()


def _quote(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
