"""The forecast of every live series for the coming week."""

import datetime
import time
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import ENTITY_KEYS, TAGS, TIMESTAMP, VIEWS
from forecast_assets.assets.common import OWNERS, SERVING_POOL
from forecast_assets.forecast_table import publication, publish_forecasts, write_forecasts
from forecast_assets.lineage import column_lineage, columns_of
from forecast_assets.metadata import (
    column_schema,
    markdown_table,
    new_figure,
    picture,
    seconds_since,
    short_dates,
    sql,
)
from forecast_assets.resources import Artifacts, FeastStore, Postgres
from forecast_assets.sql import statement

if TYPE_CHECKING:
    from feature_repo.online_reader import OnlineFeatures

_TOP = 10
_FORECASTS = {
    "forecast": "Sales in dollars",
    "p10": "Sales in dollars that one week in ten stays below",
    "p50": "Sales in dollars that half of the weeks stay below: the forecast",
    "p90": "Sales in dollars that nine weeks in ten stay below",
}
_DESCRIPTIONS = {
    "store": "The store",
    "dept": "The department",
    "week": "The coming week",
    "model_version": "The champion's hash",
    **_FORECASTS,
}


@dg.asset(
    group_name="serving",
    kinds={"postgres", "parquet"},
    owners=OWNERS,
    tags=TAGS,
    pool=SERVING_POOL,
    deps=["online_features", "champion_model"],
    description="The champion's forecast, in dollars, of each live store and department for the coming week: the "
    "PostgreSQL table weekly_forecasts and a Parquet file per week. Of earlier weeks, the last forecast that was made "
    "before they were sold.",
)
def weekly_forecasts(
    context: dg.AssetExecutionContext, feast: FeastStore, postgres: Postgres, artifacts: Artifacts
) -> dg.MaterializeResult[None]:
    """Read the online features of every live series and let the champion forecast them, as the model service does."""
    from serving.forecasting import forecast as forecast_series
    from serving.forecasting import service_for
    from trainer.bundle import bundle_hash, load_model

    started = time.monotonic()
    champion = artifacts.models.champion()
    if champion is None:
        raise dg.Failure("there is no champion model yet: materialize champion_model first", allow_retries=False)
    model, version = load_model(champion), bundle_hash(champion)
    with postgres.connect() as connection:
        keys = connection.execute(statement("coming_week_rows")).fetchall()
    week = keys[0][2]
    service = service_for(model.encoder.columns)
    features = _online_features(feast, service, [(store, dept) for store, dept, _ in keys], week)
    quantiles = forecast_series(model, features).quantiles
    finite = np.isfinite(quantiles).all(axis=1)
    if not finite.all():
        position = int(np.flatnonzero(~finite)[0])
        raise dg.Failure(
            f"the champion {champion.name} gives no finite forecast for store {keys[position][0]}, dept "
            f"{keys[position][1]}: nothing was published, the last forecasts stay",
            allow_retries=False,
        )
    low, forecast, high = quantiles.T.copy()
    rows = pa.table(
        {
            **{name: features.table[name] for name in ENTITY_KEYS},
            "week": pa.array([week] * len(keys), pa.date32()),
            "forecast": forecast,
            "p10": low,
            "p50": forecast,
            "p90": high,
            "model_version": pa.array([version] * len(keys)),
        }
    )
    settings = postgres.settings()
    publish_forecasts("weekly_forecasts", rows, settings)
    path = write_forecasts(week, settings, artifacts.forecasts)
    context.log.info(f"{len(keys):,} forecasts for the week of {week}, ${forecast.sum():,.0f} in all")
    largest = rows.sort_by([("forecast", "descending")]).slice(0, _TOP).to_pylist()
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": rows.num_rows,
            "dagster/column_schema": column_schema(rows.schema, _DESCRIPTIONS),
            "dagster/column_lineage": column_lineage(
                columns_of("online_features", store="store", dept="dept", week=TIMESTAMP)
                | {name: [f"online_features.{read}" for read in model.encoder.columns] for name in _FORECASTS}
            ),
            "dagster/table_name": f"{settings.database}.public.weekly_forecasts",
            "week": week.isoformat(),
            "model_version": version,
            "total_dollars": float(forecast.sum()),
            "largest": markdown_table(
                ("store", "dept", "forecast, $", "80 % interval"),
                [
                    (r["store"], r["dept"], f"{r['forecast']:,.0f}", f"{r['p10']:,.0f} to {r['p90']:,.0f}")
                    for r in largest
                ],
            ),
            "sales_and_forecast": _picture(largest[:4], postgres, artifacts),
            "file": dg.MetadataValue.path(path),
            "seconds": seconds_since(started),
            "sql": sql(";\n".join(publication("weekly_forecasts", rows.column_names))),
        },
    )


def _online_features(
    feast: FeastStore, service: str, keys: list[tuple[int, int]], week: datetime.date
) -> "OnlineFeatures":
    """The features of ``keys`` that ``service`` offers, in their order.

    Raises:
        dg.Failure: a series has no features, or not those of ``week``.
    """
    from feature_repo.online_reader import OnlineReader, UnknownSeriesError

    with feast.open() as store:
        features = OnlineReader(store, service).read(
            {name: [key[position] for key in keys] for position, name in enumerate(ENTITY_KEYS)}
        )
    remedy = "materialize online_features first. The last forecasts stay."
    try:
        features.raise_if_unknown()
    except UnknownSeriesError as error:
        raise dg.Failure(f"{error}: {remedy}", allow_retries=False) from None
    midnight = pa.scalar(datetime.datetime.combine(week, datetime.time(), datetime.UTC), pa.timestamp("us", "UTC"))
    for view in VIEWS:
        times = features.event_times.get(view.name)
        # What is known of a store may end before the coming week; what is known of its series may not.
        if times is None or view.keys != ENTITY_KEYS:
            continue
        other = pc.index(pc.not_equal(times, midnight), pa.scalar(True)).as_py()
        if other >= 0:
            raise dg.Failure(
                f"the {view.name} of store {keys[other][0]}, dept {keys[other][1]} are of "
                f"{times[other].as_py():%Y-%m-%d}, not of the coming week {week}: {remedy}",
                allow_retries=False,
            )
    return features


def _picture(series: list[dict[str, Any]], postgres: Postgres, artifacts: Artifacts) -> dg.MetadataValue[Any]:
    figure = new_figure(height=4.4)
    with postgres.connect() as connection:
        for axes, row in zip(figure.subplots(2, 2, sharex=True).flat, series, strict=False):
            sales = connection.execute(statement("recent_sales"), row).fetchall()
            axes.plot([day for day, _ in sales], [amount / 1e3 for _, amount in sales], linewidth=1.1, label="sales")
            interval = [[(row["forecast"] - row["p10"]) / 1e3], [(row["p90"] - row["forecast"]) / 1e3]]
            axes.errorbar(
                [row["week"]],
                [row["forecast"] / 1e3],
                interval,
                fmt="o",
                color="tab:red",
                markersize=3,
                label="forecast",
            )
            axes.set_title(f"store {row['store']}, dept {row['dept']} (thousand $)", fontsize=8)
            axes.tick_params(labelsize=7)
            short_dates(axes)
            axes.set_ylim(bottom=0)
    figure.axes[0].legend(fontsize=7)
    return picture(figure, artifacts.picture("sales_and_forecast"))
