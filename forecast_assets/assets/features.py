"""The feature tables in PostgreSQL."""

import time
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import LABEL, SALES_HISTORY, STORE_EXTERNAL, TAGS, TIMESTAMP
from forecast_assets.assets.common import OWNERS, TABLES_POOL
from forecast_assets.ingest.drop import Drop
from forecast_assets.ingest.feature_tables import (
    FeatureTable,
    sales_features_table,
    sales_windows_table,
    store_features_table,
)
from forecast_assets.ingest.publish import publish
from forecast_assets.lineage import Sources, column_lineage, columns_of, computed
from forecast_assets.metadata import column_schema, null_rates, seconds_since
from forecast_assets.raw_store import DamagedDropError
from forecast_assets.resources import Artifacts, Postgres
from forecast_assets.retries import retried_when_connections_break

_DESCRIPTIONS = {feature.name: feature.description for feature in (*SALES_HISTORY, *STORE_EXTERNAL)}


@dg.asset(
    group_name="features",
    kinds={"postgres", "table"},
    owners=OWNERS,
    tags=TAGS,
    pool=TABLES_POOL,
    deps=["train_csv", "features_csv"],
    description="One row per store, department and week, and one for each live series' coming week with the sales "
    "empty. Lags and windows go by calendar week and never include the row's own.",
)
def sales_features(
    context: dg.AssetExecutionContext, artifacts: Artifacts, postgres: Postgres
) -> dg.MaterializeResult[None]:
    """Compute the sales history from the accepted drop and publish it in one transaction."""
    started = time.monotonic()
    table = sales_features_table(_accepted_drop(artifacts))
    keys = columns_of("train_csv", store="Store", dept="Dept", date="Date", event_timestamp="Date")
    coming = table.rows[LABEL].null_count
    return _publish(context, postgres, table, {**keys, **computed(SALES_HISTORY)}, started, coming_week_rows=coming)


@dg.asset(
    group_name="features",
    kinds={"postgres", "table"},
    owners=OWNERS,
    tags=TAGS,
    pool=TABLES_POOL,
    deps=["features_csv", "stores_csv"],
    description="One row per store and week: weather, prices, promotions and the store's own attributes.",
)
def store_features(
    context: dg.AssetExecutionContext, artifacts: Artifacts, postgres: Postgres
) -> dg.MaterializeResult[None]:
    """Publish what is known of each store and week in one transaction."""
    started = time.monotonic()
    table = store_features_table(_accepted_drop(artifacts))
    keys = columns_of("features_csv", store="Store", date="Date", event_timestamp="Date")
    return _publish(context, postgres, table, {**keys, **computed(STORE_EXTERNAL)}, started)


@dg.asset(
    group_name="features",
    kinds={"postgres", "table"},
    owners=OWNERS,
    tags=TAGS,
    pool=TABLES_POOL,
    deps=["train_csv"],
    description="One row per series with all its weekly sales in one array, NaN for a week without a row. The 52 weeks "
    "before any week are a slice of it.",
)
def sales_windows(
    context: dg.AssetExecutionContext, artifacts: Artifacts, postgres: Postgres
) -> dg.MaterializeResult[None]:
    """Publish each series' sales as an array in one transaction."""
    started = time.monotonic()
    table = sales_windows_table(_accepted_drop(artifacts))
    sources = columns_of(
        "train_csv", store="Store", dept="Dept", first_week="Date", last_week="Date", sales="Weekly_Sales"
    )
    return _publish(context, postgres, table, sources, started)


def _accepted_drop(artifacts: Artifacts) -> Drop:
    try:
        return artifacts.raw.load()
    except (FileNotFoundError, DamagedDropError) as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def _publish(
    context: dg.AssetExecutionContext,
    postgres: Postgres,
    table: FeatureTable,
    sources: Sources,
    started: float,
    **metadata: Any,
) -> dg.MaterializeResult[None]:
    settings = postgres.settings()
    with retried_when_connections_break():
        publication = publish(table, settings, run_id=context.run.run_id)
    changes = (
        f"{publication.upserted:,} written, {publication.deleted:,} removed" if publication.changed else "unchanged"
    )
    context.log.info(f"{publication.rows:,} rows in {settings.label}: {changes}")
    first, last = (TIMESTAMP, TIMESTAMP) if TIMESTAMP in table.rows.column_names else ("first_week", "last_week")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(publication.data_version),
        metadata={
            "dagster/row_count": publication.rows,
            "dagster/table_name": f"{settings.database}.public.{table.name}",
            "dagster/column_schema": column_schema(table.rows.schema, _DESCRIPTIONS),
            "dagster/column_lineage": column_lineage(sources),
            "missing_values": null_rates(table.rows),
            "rows_written": publication.upserted,
            "rows_removed": publication.deleted,
            "first_week": _day(pc.min(table.rows[first])),
            "last_week": _day(pc.max(table.rows[last])),
            "seconds": seconds_since(started),
            **metadata,
        },
    )


def _day(moment: pa.Scalar) -> str:
    return str(moment.cast(pa.date32()).as_py().isoformat())
