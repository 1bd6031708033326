"""The forecast of every live series for the coming week."""

import datetime
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import INFERENCE_SERVICE, TIMESTAMP
from forecast_assets.assets.common import OWNERS, SERVING_POOL
from forecast_assets.forecast_table import publish_forecasts, write_forecasts
from forecast_assets.metadata import column_schema, markdown_table, new_figure, picture, short_dates
from forecast_assets.resources import Artifacts, FeastStore, Postgres
from forecast_assets.sql import statement

_TOP = 10


@dg.asset(
    group_name="serving",
    kinds={"postgres", "parquet"},
    owners=OWNERS,
    deps=["online_features", "champion_model"],
    pool=SERVING_POOL,
    description="The champion's forecast, in dollars, of each live store and department for the coming week: the "
    "PostgreSQL table weekly_forecasts and a Parquet file per week.",
)
def weekly_forecasts(
    context: dg.AssetExecutionContext, feast: FeastStore, postgres: Postgres, artifacts: Artifacts
) -> dg.MaterializeResult[None]:
    """Read the online features of every live series and let the champion forecast them in one pass."""
    from trainer.bundle import bundle_hash, load_model

    champion = artifacts.models.champion()
    if champion is None:
        raise dg.Failure("there is no champion model yet: materialize champion_model first", allow_retries=False)
    model, version = load_model(champion), bundle_hash(champion)
    with postgres.connect() as connection:
        keys = connection.execute(statement("coming_week_rows")).fetchall()
    week = keys[0][2]
    features = _online_features(feast, [(store, dept) for store, dept, _ in keys], week)
    forecast = model.predict(features)
    if not np.isfinite(forecast).all():
        position = int(np.flatnonzero(~np.isfinite(forecast))[0])
        raise dg.Failure(
            f"the champion {champion.name} gives no finite forecast for store {keys[position][0]}, dept "
            f"{keys[position][1]}: nothing was published, the last forecasts stay",
            allow_retries=False,
        )
    rows = pa.table(
        {
            "store": features["store"].cast(pa.int64()),
            "dept": features["dept"].cast(pa.int64()),
            "week": pa.array([week] * len(keys), pa.date32()),
            "forecast": pa.array(forecast),
            "model_version": pa.array([version] * len(keys)),
        }
    )
    publish_forecasts(rows, week, postgres.settings())
    path = write_forecasts(rows, week, artifacts.forecasts)
    context.log.info(
        f"{len(keys):,} forecasts for the week of {week}, {forecast.sum() / 1e6:,.1f} million dollars in all"
    )
    largest = rows.sort_by([("forecast", "descending")]).slice(0, _TOP).to_pylist()
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": rows.num_rows,
            "dagster/column_schema": column_schema(rows.schema),
            "week": week.isoformat(),
            "model_version": version,
            "total_dollars": float(forecast.sum()),
            "largest": markdown_table(
                ("store", "dept", "forecast, $"), [(r["store"], r["dept"], f"{r['forecast']:,.0f}") for r in largest]
            ),
            "sales_and_forecast": _picture(largest[:4], postgres, artifacts),
            "file": dg.MetadataValue.path(path),
        },
    )


def _online_features(feast: FeastStore, keys: list[tuple[int, int]], week: datetime.date) -> pa.Table:
    """The inference service's features of ``keys``, in their order.

    Raises:
        dg.Failure: the features of a series are not those of ``week``.
    """
    with feast.open() as store:
        response = store.get_online_features(
            features=store.get_feature_service(INFERENCE_SERVICE),
            entity_rows=[{"store": store_id, "dept": dept} for store_id, dept in keys],
        )
    table = response.to_arrow(include_event_timestamps=True)
    midnight = datetime.datetime.combine(week, datetime.time(), datetime.UTC)
    stale = pc.index(pc.not_equal(table["is_holiday__ts"], int(midnight.timestamp())), pa.scalar(True)).as_py()
    if stale >= 0:
        found = datetime.datetime.fromtimestamp(table["is_holiday__ts"][stale].as_py(), datetime.UTC).date()
        raise dg.Failure(
            f"the online features of store {keys[stale][0]}, dept {keys[stale][1]} are of {found}, not of the coming "
            f"week {week}: materialize online_features first. The last forecasts stay.",
            allow_retries=False,
        )
    features = table.select([name for name in table.column_names if not name.endswith("__ts")])
    return features.append_column(TIMESTAMP, pa.array([midnight] * len(keys), pa.timestamp("us", "UTC")))


def _picture(series: list[dict[str, Any]], postgres: Postgres, artifacts: Artifacts) -> dg.MetadataValue[Any]:
    figure = new_figure(height=4.4)
    with postgres.connect() as connection:
        for axes, row in zip(figure.subplots(2, 2, sharex=True).flat, series, strict=False):
            sales = connection.execute(statement("recent_sales"), row).fetchall()
            axes.plot([day for day, _ in sales], [amount / 1e3 for _, amount in sales], linewidth=1.1, label="sales")
            axes.plot(row["week"], row["forecast"] / 1e3, "o", color="tab:red", markersize=4, label="forecast")
            axes.set_title(f"store {row['store']}, dept {row['dept']} (thousand $)", fontsize=8)
            axes.tick_params(labelsize=7)
            short_dates(axes)
            axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=7)
    return picture(figure, artifacts.picture("sales_and_forecast"))
