"""Several weeks ahead, a forecast sees what it would see if the forecasts before it had been sold."""

import datetime
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo.features import FRAME_FEATURES, LABEL, SALES_WINDOW
from forecast_assets.horizon import as_of, coming_week_features, forecast_ahead
from forecast_assets.ingest.drop import Drop, read_drop
from forecast_assets.ingest.feature_tables import train_end

WEEK = datetime.timedelta(weeks=1)


@pytest.fixture(scope="module")
def drop(small_drop: Path) -> Drop:
    return read_drop(small_drop)


class Recorder:
    """A model that knows later sales, and remembers what it was shown."""

    def __init__(self, drop: Drop) -> None:
        train = drop.train.table
        keys = zip(train["Store"].to_pylist(), train["Dept"].to_pylist(), train["Date"].to_pylist(), strict=True)
        self.sales = dict(zip(keys, train["Weekly_Sales"].to_pylist(), strict=True))
        self.shown: list[pa.Table] = []

    def predict(self, table: pa.Table) -> npt.NDArray[np.float64]:
        self.shown.append(table)
        rows = table.select(["store", "dept", "event_timestamp"]).to_pylist()
        keys = [(row["store"], row["dept"], row["event_timestamp"].date()) for row in rows]
        return np.array([self.sales.get(key, np.nan) for key in keys])


def until(drop: Drop, week: datetime.date) -> Drop:
    table = drop.train.table
    return replace(drop, train=replace(drop.train, table=table.filter(pc.less_equal(table["Date"], week))))


def by_series(table: pa.Table) -> dict[tuple[int, int], str]:
    """Each row as text, because NaN is not equal to itself."""
    return {(row["store"], row["dept"]): str(sorted(row.items())) for row in table.to_pylist()}


def test_after_forecasts_that_came_true_the_features_are_those_of_the_sales(drop: Drop) -> None:
    model = Recorder(drop)
    weeks = 4
    origin = train_end(drop) - weeks * WEEK

    forecast_ahead(model, until(drop, origin), weeks)

    for ahead, shown in enumerate(model.shown):
        actual, seen = by_series(coming_week_features(until(drop, origin + ahead * WEEK))), by_series(shown)
        # A series that ended within these weeks is forecast on, one that began is not known yet.
        both = actual.keys() & seen.keys()
        assert len(both) > 20
        assert {key: actual[key] for key in both} == {key: seen[key] for key in both}


def test_the_rows_have_all_columns_of_the_frame_but_the_label(drop: Drop) -> None:
    table = coming_week_features(drop)

    expected = {feature.name for feature in (*FRAME_FEATURES, *SALES_WINDOW)} - {LABEL}
    assert set(table.column_names) == expected | {"store", "dept", "event_timestamp"}


def test_every_live_series_gets_each_week_once_and_forecasts_build_on_forecasts(drop: Drop) -> None:
    class Growing:
        def predict(self, table: pa.Table) -> npt.NDArray[np.float64]:
            return np.asarray(pc.fill_null(table["sales_lag_1"], 100.0).to_numpy()) * 2

    table = forecast_ahead(Growing(), drop, 3)

    weeks = pc.unique(table["week"]).to_pylist()
    assert weeks == [train_end(drop) + ahead * WEEK for ahead in (1, 2, 3)]
    first, second, third = (table.filter(pc.equal(table["weeks_ahead"], ahead)) for ahead in (1, 2, 3))
    assert first.select(["store", "dept"]) == second.select(["store", "dept"]) == third.select(["store", "dept"])
    assert np.array_equal(second["forecast"].to_numpy(), 2 * first["forecast"].to_numpy())
    assert np.array_equal(third["forecast"].to_numpy(), 4 * first["forecast"].to_numpy())


def test_as_of_a_week_neither_later_sales_nor_later_measurements_are_known_but_holidays_are(drop: Drop) -> None:
    week = train_end(drop) - 10 * WEEK
    past = as_of(drop, week)

    assert train_end(past) == week
    later = past.features.table.filter(pc.greater(past.features.table["Date"], week))
    assert later.num_rows > 0
    measured = [name for name in later.column_names if name not in ("Store", "Date", "IsHoliday")]
    assert {later[name].null_count for name in measured} == {later.num_rows}
    assert later["IsHoliday"].null_count == 0
    rows = past.features.table.filter(pc.less_equal(past.features.table["Date"], week))
    assert rows.equals(drop.features.table.filter(pc.less_equal(drop.features.table["Date"], week)))
