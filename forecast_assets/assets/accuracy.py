"""How good past forecasts were, and whether the next ones can be trusted as much."""

import math
import time
from collections.abc import Iterator
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import TAGS
from forecast_assets.accuracy import SCORES, last_weeks, parts_by, score, score_by_scope, score_naive
from forecast_assets.assets.common import OWNERS, SERVING_POOL
from forecast_assets.automation import ANY_UPDATE
from forecast_assets.drift import Stability, same_season, stability
from forecast_assets.forecast_table import create_forecast_tables
from forecast_assets.horizon import coming_week_features
from forecast_assets.metadata import (
    column_schema,
    markdown_table,
    new_figure,
    picture,
    seconds_since,
    short_dates,
    sql,
    stability_table,
)
from forecast_assets.promotion import COVERAGE_TOLERANCE, calibrated, chance
from forecast_assets.resources import Artifacts, Postgres
from forecast_assets.result_table import replace_rows
from forecast_assets.sql import statement

ACCURACY_CHECK = "better_than_naive_lately"
COVERAGE_CHECK = "calibrated_lately"
INPUTS_CHECK = "inputs_as_in_training"

RECENT_WEEKS = 4
_WORST = 10
_DESCRIPTIONS = {
    "scope": "all, week, store or dept",
    "key": "Which week, store or department",
    "rows": "Forecasts that were scored",
    "wmae": "Mean absolute error in dollars, holiday weeks counted five times",
    "mae": "Mean absolute error in dollars",
    "rmse": "Root mean square error in dollars",
    "wape": "Sum of absolute errors over sum of sales",
    "mape": "Mean of relative errors of sales above 1,000 dollars",
    "bias": "Sum of errors over sum of sales; above 0, too much was forecast",
    "coverage": "Share of the sales within the 80 % interval",
}


@dg.asset(
    group_name="serving",
    kinds={"postgres", "table"},
    owners=OWNERS,
    tags=TAGS,
    deps=["sales_features", "weekly_forecasts"],
    pool=SERVING_POOL,
    check_specs=[
        dg.AssetCheckSpec(
            ACCURACY_CHECK,
            asset="forecast_accuracy",
            description=f"Over the last {RECENT_WEEKS} weeks that were forecast and sold, WMAE is below that of every "
            "naive forecast of the same rows.",
        ),
        dg.AssetCheckSpec(
            COVERAGE_CHECK,
            asset="forecast_accuracy",
            description="Over the same weeks, 70 to 90 % of the sales lie in the 80 % interval; of fewer than 64 "
            "series, as many as two standard errors allow.",
        ),
    ],
    description="Past forecasts scored against the sales that followed: WMAE, WAPE, bias and coverage over all rows "
    "and by week, store and department.",
)
def forecast_accuracy(
    context: dg.AssetExecutionContext, postgres: Postgres, artifacts: Artifacts
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Join forecasts and sales, score them, and publish the scores."""
    started = time.monotonic()
    settings = postgres.settings()
    create_forecast_tables("weekly_forecasts", settings)
    with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
        cursor.execute(statement("scored_forecasts"))
        rows = cursor.fetch_arrow_table()
    if not rows.num_rows:
        replace_rows(settings, "forecast_accuracy", SCORES.empty_table())
        context.log.info("no week that was forecast before it was sold has its sales yet: there is nothing to score")
        yield dg.MaterializeResult(metadata={"dagster/row_count": 0})
        yield _check(ACCURACY_CHECK, True, {})
        yield _check(COVERAGE_CHECK, True, {})
        return
    scores = score_by_scope(rows)
    replace_rows(settings, "forecast_accuracy", scores)
    weeks = pc.min_max(rows["week"]).as_py()
    overall, recent = score(rows), last_weeks(rows, RECENT_WEEKS)
    lately, naive = score(recent), score_naive(recent)
    best = min(naive, key=lambda name: naive[name])
    context.log.info(
        f"{rows.num_rows:,} past forecasts: WMAE {overall['wmae']:,.0f}, WAPE {overall['wape']:.1%}, bias "
        f"{overall['bias']:+.1%}; lately WMAE {lately['wmae']:,.0f}, that of {best} {naive[best]:,.0f}"
    )
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": scores.num_rows,
            "dagster/column_schema": column_schema(scores.schema, _DESCRIPTIONS),
            "dagster/table_name": f"{settings.database}.public.forecast_accuracy",
            "forecasts_scored": rows.num_rows,
            **{f"accuracy/{name}": value for name, value in overall.items() if value == value},
            **{f"accuracy_lately/{name}": value for name, value in lately.items() if value == value},
            "first_week": weeks["min"].isoformat(),
            "last_week": weeks["max"].isoformat(),
            "worst_departments": _worst(scores, "dept"),
            "worst_stores": _worst(scores, "store"),
            "wmae_by_week": _picture(rows, artifacts),
            "wmae_by_department": _department_picture(scores, artifacts),
            "seconds": seconds_since(started),
            "sql": sql(statement("scored_forecasts")),
        }
    )
    better = lately["wmae"] < naive[best]
    reason = {} if better else {"reason": f"WMAE {lately['wmae']:,.0f} is not below that of {best}, {naive[best]:,.0f}"}
    yield _check(ACCURACY_CHECK, better, {**reason, "wmae": lately["wmae"], **_prefixed("naive", naive)})
    if math.isnan(lately["coverage"]):
        yield _check(COVERAGE_CHECK, True, {})
        return
    series = recent.group_by(["store", "dept"]).aggregate([]).num_rows
    finding = calibrated(lately["coverage"], series, max(COVERAGE_TOLERANCE, chance(series)))
    reason = {} if finding.passed else {"reason": finding.sentence}
    yield _check(COVERAGE_CHECK, finding.passed, {**reason, "coverage": lately["coverage"]})


@dg.asset_check(
    asset="online_features",
    name=INPUTS_CHECK,
    additional_deps=["training_frame", "champion_model"],
    automation_condition=ANY_UPDATE,
    description="What the champion reads of the coming week is distributed as in the same season of its training frame "
    "(population stability index, with a bound for the number of series).",
)
def inputs_as_in_training(artifacts: Artifacts) -> dg.AssetCheckResult:
    """Compare the coming week's rows with the frame's rows of the same time of year."""
    from trainer.bundle import read_sidecar

    champion = artifacts.models.champion()
    if champion is None:
        return _check(INPUTS_CHECK, True, {}, asset="online_features")
    live, frame = coming_week_features(artifacts.raw.load()), artifacts.frames.load()
    reference = same_season(frame, pc.max(live["week_of_year"]).as_py())
    read = [name for name in read_sidecar(champion)["inputs"] if name in reference.column_names]
    columns = stability(live.select(read), reference)
    drifted = [column for column in columns if column.drifted]
    return _check(
        INPUTS_CHECK,
        not drifted,
        {
            **({"reason": drifted[0].sentence} if drifted else {}),
            "compared": f"{live.num_rows:,} series with {reference.num_rows:,} rows of the frame",
            **({"largest_index": max(column.index for column in columns)} if columns else {}),
            "stability": stability_table(columns),
            "stability_index": _drift_picture(columns, artifacts),
        },
        asset="online_features",
    )


def _check(name: str, passed: bool, metadata: dict[str, Any], asset: str = "forecast_accuracy") -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=asset, check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=metadata
    )


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _worst(scores: pa.Table, scope: str) -> dg.MetadataValue[Any]:
    rows = scores.filter(pc.equal(scores["scope"], scope)).sort_by([("wmae", "descending")]).slice(0, _WORST)
    return markdown_table(
        (scope, "WMAE", "WAPE", "bias", "rows"),
        [
            (r["key"], f"{r['wmae']:,.0f}", f"{r['wape']:.1%}", f"{r['bias']:+.1%}", f"{r['rows']:,}")
            for r in rows.to_pylist()
        ],
    )


def _picture(rows: pa.Table, artifacts: Artifacts) -> dg.MetadataValue[Any]:
    weeks, parts = zip(*parts_by(rows, "week"), strict=True)
    figure = new_figure()
    axes = figure.subplots()
    axes.plot(weeks, [score(part)["wmae"] for part in parts], "o-", markersize=3, label="forecast")
    naive = [score_naive(part) for part in parts]
    for name in naive[0]:
        axes.plot(weeks, [each[name] for each in naive], linewidth=0.8, label=name)
    axes.set_ylabel("WMAE, $")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)
    short_dates(axes)
    return picture(figure, artifacts.picture("wmae_by_week"))


def _department_picture(scores: pa.Table, artifacts: Artifacts) -> dg.MetadataValue[Any]:
    rows = scores.filter(pc.equal(scores["scope"], "dept")).sort_by([("wmae", "descending")])
    figure = new_figure()
    axes = figure.subplots()
    axes.bar(rows["key"].to_pylist(), rows["wmae"].to_numpy(), width=0.8)
    axes.set_xlabel("department")
    axes.set_ylabel("WMAE, $")
    axes.tick_params(axis="x", labelsize=5, rotation=90)
    axes.margins(x=0.01)
    return picture(figure, artifacts.picture("wmae_by_department"))


def _drift_picture(columns: list[Stability], artifacts: Artifacts) -> dg.MetadataValue[Any]:
    figure = new_figure()
    axes = figure.subplots()
    names = [column.column for column in reversed(columns)]
    axes.barh(names, [column.index for column in reversed(columns)], height=0.6, label="index")
    axes.plot([column.bound for column in reversed(columns)], names, "|", color="tab:red", markersize=12, label="bound")
    axes.set_xlabel("population stability index")
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7)
    return picture(figure, artifacts.picture("input_drift"))
