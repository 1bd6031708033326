"""Forecasts of several weeks ahead."""

import time

import dagster as dg
import numpy as np
import pyarrow as pa
from pydantic import Field

from feature_repo.features import TAGS
from forecast_assets.assets.common import OWNERS, SERVING_POOL
from forecast_assets.forecast_table import publish_forecasts
from forecast_assets.horizon import forecast_ahead
from forecast_assets.ingest.feature_tables import train_end
from forecast_assets.metadata import column_schema, markdown_table, seconds_since
from forecast_assets.resources import Artifacts, Postgres

MAX_WEEKS = 39  # as far as features.csv reaches
_DESCRIPTIONS = {
    "origin": "The last week with sales when it was forecast",
    "week": "The week that is forecast",
    "weeks_ahead": "Weeks from origin to week",
    "forecast": "Sales in dollars",
    "model_version": "The champion's hash",
}


class HorizonConfig(dg.Config):
    """How far ahead."""

    weeks: int = Field(default=8, ge=1, le=MAX_WEEKS, description="Weeks after the last one with sales.")


@dg.asset(
    group_name="serving",
    kinds={"postgres", "table"},
    owners=OWNERS,
    tags=TAGS,
    deps=["sales_features", "store_features", "champion_model"],
    pool=SERVING_POOL,
    description="The champion's forecast of each live series for several weeks, each building on those before it; the "
    "first is that of weekly_forecasts. Of earlier origins, those made before their weeks were sold.",
)
def horizon_forecasts(
    context: dg.AssetExecutionContext, config: HorizonConfig, postgres: Postgres, artifacts: Artifacts
) -> dg.MaterializeResult[None]:
    """Forecast week after week from the accepted drop, and publish the rows of this origin."""
    from trainer.bundle import bundle_hash, load_model

    started = time.monotonic()
    champion = artifacts.models.champion()
    if champion is None:
        raise dg.Failure("there is no champion model yet: materialize champion_model first", allow_retries=False)
    drop = artifacts.raw.load()
    origin = train_end(drop)
    table = forecast_ahead(load_model(champion), drop, config.weeks)
    if not np.isfinite(table["forecast"].to_numpy()).all():
        raise dg.Failure(
            f"the champion {champion.name} gives forecasts that are not finite within {config.weeks} weeks: nothing "
            "was published, the last forecasts stay",
            allow_retries=False,
        )
    table = table.append_column("origin", pa.array([origin] * table.num_rows, pa.date32()))
    table = table.append_column("model_version", pa.array([bundle_hash(champion)] * table.num_rows))
    settings = postgres.settings()
    publish_forecasts("horizon_forecasts", table, settings)
    totals = table.group_by("week").aggregate([("forecast", "sum")]).sort_by("week").to_pylist()
    context.log.info(f"{table.num_rows:,} forecasts for {config.weeks} weeks after {origin}")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": table.num_rows,
            "dagster/column_schema": column_schema(table.schema, _DESCRIPTIONS),
            "dagster/table_name": f"{settings.database}.public.horizon_forecasts",
            "origin": origin.isoformat(),
            "weeks": config.weeks,
            "first_week": totals[0]["week"].isoformat(),
            "last_week": totals[-1]["week"].isoformat(),
            "seconds": seconds_since(started),
            "totals": markdown_table(
                ("week", "million $"), [(row["week"], f"{row['forecast_sum'] / 1e6:,.1f}") for row in totals]
            ),
        }
    )
