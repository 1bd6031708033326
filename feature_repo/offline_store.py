"""Feast's PostgreSQL offline store with a point-in-time join that is right and stays in Arrow.

The stock store numbers entity rows by joining their keys without a separator, so that (1, 11) and (11, 1) become one
row, and reads results cell by cell. Here a retrieval is one statement (``point_in_time``) that gives exactly one output
row per entity row, in the entity rows' order, and its result comes as Arrow (``retrieval_job``).
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.data_source import DataSource
from feast.errors import FeastEntityDFMissingColumnsError
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres import (
    PostgreSQLOfflineStore,
    PostgreSQLOfflineStoreConfig,
)
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.utils import compute_non_entity_date_range

from feature_repo.offline_write import upsert
from feature_repo.point_in_time import Plan, ViewQuery, events_query, newest_query, point_in_time_query, quote
from feature_repo.retrieval_job import ENTITY_TABLE, ArrowRetrievalJob, LazyMetadata, fetch
from feature_repo.source_indexes import best_plan

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
        **dates: Any,
    ) -> ArrowRetrievalJob:
        """See Feast's contract. A ``entity_df`` in SQL uploads nothing; a DataFrame is uploaded by COPY.

        Without ``entity_df`` the entity rows are every (entity, time) between the dates at which a feature view with
        all of the join keys has a row, in order of time. ``dates`` are Feast's ``start_date`` and ``end_date``.

        Raises:
            FeastEntityDFMissingColumnsError: the entity rows lack a join key.
            ValueError: without ``entity_df``: no feature view has all of the join keys.
        """
        views = _view_queries(
            feature_refs, feature_views, registry, project, full_feature_names, filter_by_created_timestamp
        )
        uploaded = None
        if isinstance(entity_df, pd.DataFrame):
            uploaded = pa.Table.from_pandas(entity_df, preserve_index=False).replace_schema_metadata()
            entity_rows, schema = quote(ENTITY_TABLE), uploaded.schema
        else:
            if entity_df is None:
                start, end = compute_non_entity_date_range(feature_views, **dates)
                entity_rows = events_query(views, start, end, offline_utils.DEFAULT_ENTITY_DF_EVENT_TIMESTAMP_COL)
            else:
                entity_rows = f"({entity_df.strip().rstrip(';')})"
            schema = fetch(config, f"SELECT * FROM {entity_rows} e LIMIT 0").schema  # noqa: S608 - the caller's query
        columns = schema.names
        timestamp = offline_utils.infer_event_timestamp_from_entity_df(dict(schema.empty_table().to_pandas().dtypes))
        join_keys = {key for view in views for key, _ in view.keys}
        if missing := join_keys - set(columns):
            raise FeastEntityDFMissingColumnsError(join_keys, missing)
        views = [replace(view, plan=best_plan(config, view, schema)) for view in views]
        return ArrowRetrievalJob(
            query=point_in_time_query(entity_rows, columns, timestamp, views),
            config=config,
            full_feature_names=full_feature_names,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            metadata=LazyMetadata(
                feature_refs,
                [name for name in columns if name != timestamp],
                lambda: _bounds(config, entity_rows if uploaded is None else uploaded, timestamp),
            ),
            entity_rows=uploaded,
            column_names=[*columns, *(output for view in views for _, output in view.features)],
            set_based=any(view.plan is Plan.MERGE for view in views),
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
        if not feature_name_columns:
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
        keys = [column for column in join_key_columns if column != DUMMY_ENTITY_ID]
        view = ViewQuery(
            source=data_source.get_table_query_string(),
            timestamp=timestamp_field,
            created=created_timestamp_column or None,
            keys=tuple((column, column) for column in keys),
            features=tuple((column, column) for column in feature_name_columns),
        )
        query = newest_query(view, start_date, end_date)
        return ArrowRetrievalJob(query=_with_dummy_key(query, keys), config=config, full_feature_names=False)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows between the dates, of which materialization takes the newest; also reads saved datasets."""
        stock = PostgreSQLOfflineStore.pull_all_from_table_or_query(
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            start_date,
            end_date,
        )
        keys = [column for column in join_key_columns if column != DUMMY_ENTITY_ID]
        return ArrowRetrievalJob(query=_with_dummy_key(stock.to_sql(), keys), config=config, full_feature_names=False)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> None:
        """See ``offline_write.upsert``, which Feast's ``write_to_offline_store`` ends in."""
        upsert(config, feature_view, table)
        if progress:
            progress(table.num_rows)


def _with_dummy_key(query: str, keys: list[str]) -> str:
    """Feast keeps the one row of a view without entities in the online store under a key of its own."""
    if keys:
        return query
    dummy = f"CAST('{DUMMY_ENTITY_VAL}' AS text) AS {quote(DUMMY_ENTITY_ID)}"
    return f"SELECT q.*, {dummy} FROM ({query}) q"  # noqa: S608


def _view_queries(
    feature_refs: list[str],
    feature_views: list[FeatureView],
    registry: BaseRegistry,
    project: str,
    full_feature_names: bool,
    only_created: bool,
) -> list[ViewQuery]:
    by_name = {view.projection.name_to_use(): view for view in feature_views}
    queries = []
    # The bounds are for stores that scan whole partitions; nothing here reads them.
    for context in offline_utils.get_feature_view_query_context(
        feature_refs, feature_views, registry, project, _ALL_TIMES
    ):
        view = by_name[context.name]
        source_columns = {name: column for column, name in context.field_mapping.items()}
        renamed = view.projection.join_key_map
        outputs = [(column, context.field_mapping.get(column, column)) for column in context.features]
        prefix = f"{context.name}__" if full_feature_names else ""
        queries.append(
            ViewQuery(
                source=context.table_subquery,
                timestamp=context.timestamp_field,
                created=context.created_timestamp_column or None,
                only_created=only_created,
                keys=tuple(
                    (renamed.get(entity.name, entity.name), source_columns.get(entity.name, entity.name))
                    for entity in view.entity_columns
                    if entity.name != DUMMY_ENTITY_ID
                ),
                features=tuple((column, prefix + output) for column, output in outputs),
                # Feast's own context holds whole seconds.
                ttl=view.ttl if view.ttl and view.ttl > timedelta(0) else None,
            )
        )
    return queries


def _bounds(config: RepoConfig, entity_rows: str | pa.Table, timestamp: str) -> tuple[datetime | None, datetime | None]:
    """The times of the first and the last entity row."""
    if isinstance(entity_rows, str):
        time = quote(timestamp)
        row = fetch(config, f"SELECT min({time}), max({time}) FROM {entity_rows} e").to_pylist()[0]  # noqa: S608
        first, last = row.values()
    else:
        extremes = pc.min_max(entity_rows[timestamp]).as_py()
        first, last = extremes["min"], extremes["max"]
    return first, last
