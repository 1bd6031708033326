"""Past forecasts are scored against what was then sold, by week, store and department."""

import datetime
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import dagster as dg
import numpy as np
import psycopg
import pyarrow as pa
import pytest

from feature_repo.database import PostgresSettings
from forecast_assets.accuracy import last_weeks, score, score_by_scope
from forecast_assets.assets.accuracy import forecast_accuracy
from forecast_assets.forecast_table import create_forecast_tables
from forecast_assets.resources import Artifacts, Postgres

FIRST = datetime.date(2012, 6, 1)


def forecasts(weeks: int = 6, error: float = 0.1) -> pa.Table:
    """Two stores with two departments; every second forecast too high, the others too low by the same share."""
    keys = [
        (store, dept, FIRST + datetime.timedelta(weeks=w)) for w in range(weeks) for store in (1, 2) for dept in (7, 8)
    ]
    stores, depts, dates = zip(*keys, strict=True)
    sales = np.linspace(1_000, 2_000, len(dates))
    sign = np.where(np.arange(len(dates)) % 2, 1, -1)
    return pa.table(
        {
            "store": stores,
            "dept": depts,
            "week": pa.array(dates, pa.date32()),
            "forecast": sales * (1 + sign * error),
            "p10": sales * 0.8,
            "p90": sales * 1.2,
            "weekly_sales": sales,
            "is_holiday": [date == FIRST for date in dates],
        }
    )


def test_scores_are_the_definitions() -> None:
    rows = forecasts(weeks=2)
    scores = score(rows)
    sales = rows["weekly_sales"].to_numpy()
    weights = np.where(rows["is_holiday"].to_numpy(zero_copy_only=False), 5, 1)

    assert scores["wmae"] == pytest.approx((weights * sales * 0.1).sum() / weights.sum())
    assert scores["wape"] == pytest.approx(0.1)
    assert scores["bias"] == pytest.approx((rows["forecast"].to_numpy() - sales).sum() / sales.sum())
    assert scores["coverage"] == 1


def test_coverage_counts_only_forecasts_that_have_an_interval() -> None:
    rows = forecasts(weeks=2)
    missing = pa.array([None] * 4 + [5_000.0] * 4)
    assert score(rows.set_column(4, "p10", missing))["coverage"] == 0
    assert np.isnan(score(rows.set_column(4, "p10", pa.nulls(8, pa.float64())))["coverage"])


def test_each_scope_adds_up_to_all_rows() -> None:
    scores = score_by_scope(forecasts()).to_pylist()

    (overall,) = (row for row in scores if row["scope"] == "all")
    for scope, parts in (("week", 6), ("store", 2), ("dept", 2)):
        rows = [row for row in scores if row["scope"] == scope]
        assert len(rows) == parts
        assert sum(row["rows"] for row in rows) == overall["rows"] == 24
        assert sum(row["mae"] * row["rows"] for row in rows) == pytest.approx(overall["mae"] * 24)


def test_the_last_weeks_are_those_that_have_rows() -> None:
    rows = forecasts().slice(0, 20)

    assert last_weeks(rows, 2)["week"].unique().to_pylist() == [FIRST + datetime.timedelta(weeks=w) for w in (3, 4)]


@pytest.fixture
def sold(database: PostgresSettings, monkeypatch: pytest.MonkeyPatch) -> PostgresSettings:
    """A server with a table of what was sold, and forecasts of it; the next week is forecast and not sold."""
    monkeypatch.setenv("POSTGRES_HOST", database.host)
    monkeypatch.setenv("POSTGRES_DB", database.database)
    monkeypatch.setenv("POSTGRES_SSLMODE", database.sslmode)
    rows = forecasts(weeks=7)
    sales = rows.select(["store", "dept", "is_holiday", "weekly_sales"]).append_column("date", rows["week"])
    naive = (
        "sales_lag_1",
        "sales_lag_52",
        "sales_rolling_mean_4",
        "sales_rolling_mean_12",
        "sales_rolling_mean_4_lag_52",
    )
    for name in naive:
        sales = sales.append_column(name, pa.array(rows["weekly_sales"].to_numpy() * 1.3))
    last = rows["week"][-1].as_py()
    with adbc.connect(database.url) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("sales_features", sales, mode="create")
        connection.commit()
    with psycopg.connect(database.url) as connection:
        connection.execute("UPDATE sales_features SET weekly_sales = NULL WHERE date = %s", [last])
    publish(database, rows)
    return database


def publish(database: PostgresSettings, rows: pa.Table) -> None:
    """Let ``rows`` be the forecasts that were made in time."""
    columns = rows.select(["store", "dept", "week", "forecast", "p10", "p90"])
    versions = pa.array(["a"] * rows.num_rows)
    create_forecast_tables("weekly_forecasts", database)
    with adbc.connect(database.url) as connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM weekly_forecasts_history")
        cursor.adbc_ingest("weekly_forecasts_history", columns.append_column("model_version", versions), mode="append")
        connection.commit()


def materialize(artifacts: Artifacts) -> dg.ExecuteInProcessResult:
    return dg.materialize([forecast_accuracy], resources={"postgres": Postgres(), "artifacts": artifacts})


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {each.check_name: each.passed for each in result.get_asset_check_evaluations()}


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("forecast_accuracy")
    return {name: value.value for name, value in event.metadata.items()}


def test_only_weeks_that_were_sold_are_scored_and_the_scores_are_published(
    sold: PostgresSettings, tmp_path: Path
) -> None:
    result = materialize(Artifacts(path=str(tmp_path)))

    with psycopg.connect(sold.url) as connection:
        published = connection.execute(
            "SELECT scope, key, rows FROM forecast_accuracy WHERE scope <> 'week'"
        ).fetchall()
        weeks = connection.execute("SELECT count(*) FROM forecast_accuracy WHERE scope = 'week'").fetchone()
    assert sorted(published) == [
        ("all", "all", 24),
        ("dept", "7", 12),
        ("dept", "8", 12),
        ("store", "1", 12),
        ("store", "2", 12),
    ]
    assert weeks == (6,)
    assert metadata(result)["accuracy/wape"] == pytest.approx(0.1)
    assert metadata(result)["forecasts_scored"] == 24


def test_forecasts_worse_than_the_naive_ones_and_intervals_that_miss_are_warned_of(
    sold: PostgresSettings, tmp_path: Path
) -> None:
    artifacts = Artifacts(path=str(tmp_path))
    rows = forecasts(weeks=7)
    publish(sold, rows.set_column(4, "p10", pa.array(rows["forecast"].to_numpy() * 9)))
    missed = materialize(artifacts)
    rows = forecasts(weeks=7, error=0.5)
    publish(
        sold, rows.set_column(4, "p10", pa.array(rows["forecast"].to_numpy() * np.where(np.arange(28) % 5, 0.1, 9)))
    )
    worse = checks(materialize(artifacts))

    assert checks(missed) == {"better_than_naive_lately": True, "calibrated_lately": False}
    (reason,) = (e.metadata["reason"].value for e in missed.get_asset_check_evaluations() if not e.passed)
    assert reason == "0.0% of the sales lie in the 80 % interval, not within 40% to 100% for 4 series"
    assert worse == {"better_than_naive_lately": False, "calibrated_lately": True}


def test_before_any_forecast_week_was_sold_there_is_nothing_to_score_and_nothing_to_warn_of(
    sold: PostgresSettings, tmp_path: Path
) -> None:
    publish(sold, forecasts(weeks=7).slice(24))

    result = materialize(Artifacts(path=str(tmp_path)))

    assert checks(result) == {"better_than_naive_lately": True, "calibrated_lately": True}
    assert metadata(result) == {"dagster/row_count": 0}


def test_scores_of_before_go_when_no_week_that_was_forecast_is_sold_any_more(
    sold: PostgresSettings, tmp_path: Path
) -> None:
    materialize(Artifacts(path=str(tmp_path)))
    with psycopg.connect(sold.url) as connection:
        connection.execute("UPDATE sales_features SET weekly_sales = NULL")

    materialize(Artifacts(path=str(tmp_path)))

    with psycopg.connect(sold.url) as connection:
        assert connection.execute("SELECT count(*) FROM forecast_accuracy").fetchone() == (0,)


def test_what_is_shown_for_a_week_that_was_sold_before_is_not_scored(sold: PostgresSettings, tmp_path: Path) -> None:
    publish(sold, forecasts(weeks=7).slice(24))
    with psycopg.connect(sold.url) as connection:
        connection.execute("INSERT INTO weekly_forecasts VALUES (1, 7, %s, 1000, 'knows the sales')", [FIRST])

    result = materialize(Artifacts(path=str(tmp_path)))

    assert metadata(result) == {"dagster/row_count": 0}
