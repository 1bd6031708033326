"""A backtest sees nothing that came after its origin, and scores what was sold then."""

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from forecast_assets.accuracy import parts_by
from forecast_assets.backtest import NaiveModel, origins, replay, wmae
from forecast_assets.ingest.drop import Drop, read_drop
from forecast_assets.ingest.feature_tables import train_end

WEEK = datetime.timedelta(weeks=1)


@pytest.fixture(scope="module")
def drop(small_drop: Path) -> Drop:
    return read_drop(small_drop)


def test_the_last_origin_leaves_as_many_sold_weeks_as_are_forecast(drop: Drop) -> None:
    assert origins(drop, count=3, horizon=4, every=2) == [train_end(drop) - n * WEEK for n in (8, 6, 4)]


def test_the_forecasts_do_not_depend_on_anything_after_the_origin(drop: Drop) -> None:
    (origin,) = origins(drop, count=1, horizon=4, every=4)
    train, features = drop.train.table, drop.features.table
    sales = pc.if_else(
        pc.greater(train["Date"], origin), pc.multiply(train["Weekly_Sales"], 10.0), train["Weekly_Sales"]
    )
    heat = pc.if_else(
        pc.greater(features["Date"], origin), pc.add(features["Temperature"], 50.0), features["Temperature"]
    )
    other = replace(
        drop,
        train=replace(drop.train, table=train.set_column(3, "Weekly_Sales", sales)),
        features=replace(drop.features, table=features.set_column(2, "Temperature", heat)),
    )

    before, after = (replay(NaiveModel("lag_52_yoy"), each, origin, 4) for each in (drop, other))

    assert before["forecast"] == after["forecast"]
    assert np.allclose(after["weekly_sales"].to_numpy(), 10 * before["weekly_sales"].to_numpy())


def test_every_sold_week_of_a_series_that_was_live_is_scored_once(drop: Drop) -> None:
    (origin,) = origins(drop, count=1, horizon=3, every=3)
    train = drop.train.table
    rows = replay(NaiveModel("lag_1"), drop, origin, 3)

    year_before = train.filter(
        pc.and_(pc.less_equal(train["Date"], origin), pc.greater(train["Date"], origin - 52 * WEEK))
    )
    live = set(zip(year_before["Store"].to_pylist(), year_before["Dept"].to_pylist(), strict=True))
    later = train.filter(pc.greater(train["Date"], origin)).select(["Store", "Dept", "Date"]).to_pylist()
    expected = sorted((row["Date"], row["Store"], row["Dept"]) for row in later if (row["Store"], row["Dept"]) in live)
    assert [tuple(row.values()) for row in rows.select(["week", "store", "dept"]).to_pylist()] == expected


def test_a_model_that_is_a_naive_forecast_scores_as_that_one_does(drop: Drop) -> None:
    (origin,) = origins(drop, count=1, horizon=3, every=3)
    rows = replay(NaiveModel("lag_52"), drop, origin, 3)

    assert wmae(rows)["model"] == wmae(rows)["lag_52"]
    assert [ahead for ahead, _ in parts_by(rows, "weeks_ahead")] == [1, 2, 3]
    assert pa.types.is_date32(rows["origin"].type)
