"""The two feature tables in PostgreSQL."""

import time
from typing import Any

import dagster as dg
import pyarrow.compute as pc

from feature_repo.features import SALES_HISTORY, STORE_EXTERNAL, Feature
from forecast_assets.assets.common import OWNERS
from forecast_assets.ingest.feature_tables import FeatureTable, sales_features_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.metadata import column_schema, null_rates
from forecast_assets.resources import Artifacts, Postgres


@dg.asset(
    group_name="features",
    kinds={"postgres", "table"},
    owners=OWNERS,
    deps=["train_csv", "features_csv"],
    description="One row per store, department and week, and one for each live series' coming week with the sales "
    "empty. Lags and windows go by calendar week and never include the row's own.",
)
def sales_features(
    context: dg.AssetExecutionContext, artifacts: Artifacts, postgres: Postgres
) -> dg.MaterializeResult[None]:
    """Compute the sales history from the accepted drop and publish it in one transaction."""
    started = time.monotonic()
    table = sales_features_table(artifacts.raw.load())
    coming = table.rows["weekly_sales"].null_count
    return _publish(context, postgres, table, SALES_HISTORY, started, {"coming_week_rows": coming})


@dg.asset(
    group_name="features",
    kinds={"postgres", "table"},
    owners=OWNERS,
    deps=["features_csv", "stores_csv"],
    description="One row per store and week: weather, prices, promotions and the store's own attributes.",
)
def store_features(
    context: dg.AssetExecutionContext, artifacts: Artifacts, postgres: Postgres
) -> dg.MaterializeResult[None]:
    """Publish what is known of each store and week in one transaction."""
    started = time.monotonic()
    return _publish(context, postgres, store_features_table(artifacts.raw.load()), STORE_EXTERNAL, started, {})


def _publish(
    context: dg.AssetExecutionContext,
    postgres: Postgres,
    table: FeatureTable,
    features: tuple[Feature, ...],
    started: float,
    metadata: dict[str, Any],
) -> dg.MaterializeResult[None]:
    settings = postgres.settings()
    publication = publish(table, settings, run_id=context.run.run_id)
    changes = (
        f"{publication.upserted:,} written, {publication.deleted:,} removed" if publication.changed else "unchanged"
    )
    context.log.info(f"{publication.rows:,} rows in {settings.label}: {changes}")
    weeks = pc.min_max(table.rows["date"]).as_py()
    descriptions = {feature.name: feature.description for feature in features}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(publication.data_version),
        metadata={
            "dagster/row_count": publication.rows,
            "dagster/table_name": f"{settings.database}.public.{table.name}",
            "dagster/column_schema": column_schema(table.rows.schema, descriptions),
            "missing_values": null_rates(table.rows),
            "rows_written": publication.upserted,
            "rows_removed": publication.deleted,
            "first_week": weeks["min"].isoformat(),
            "last_week": weeks["max"].isoformat(),
            "seconds": round(time.monotonic() - started, 2),
            **metadata,
        },
    )
