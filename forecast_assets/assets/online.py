"""The online store: the newest features of every series, which are those of the coming week."""

import contextlib
import io
import time
from datetime import UTC, datetime, timedelta

import dagster as dg

from forecast_assets.assets.common import OWNERS
from forecast_assets.resources import FeastStore, Postgres
from forecast_assets.sql import statement


@dg.asset(
    group_name="serving",
    kinds={"feast", "postgres"},
    owners=OWNERS,
    deps=["feast_registry", "sales_features", "store_features", "champion_model"],
    description="Each series' newest features in Feast's online store: for a live series those of the coming week, "
    "from which its forecast is made.",
)
def online_features(
    context: dg.AssetExecutionContext, feast: FeastStore, postgres: Postgres
) -> dg.MaterializeResult[None]:
    """Materialize both feature views up to the coming week."""
    from feature_repo.definitions import TTL

    started = time.monotonic()
    with postgres.connect() as connection:
        keys = connection.execute(statement("coming_week_rows")).fetchall()
        versions = connection.execute(statement("table_versions")).fetchall()
    coming_week = keys[0][2]
    end = datetime.combine(coming_week, datetime.min.time(), tzinfo=UTC)
    with feast.open() as store, contextlib.redirect_stdout(io.StringIO()):  # Feast prints a progress bar per view
        store.materialize(end - TTL + timedelta(seconds=1), end)
    seconds = time.monotonic() - started
    context.log.info(f"{len(keys):,} series ready for the week of {coming_week} in {seconds:.1f} s")
    return dg.MaterializeResult(
        data_version=dg.DataVersion("-".join(version[:16] for _, version in versions)),
        metadata={"series": len(keys), "week": coming_week.isoformat(), "seconds": round(seconds, 2)},
    )
