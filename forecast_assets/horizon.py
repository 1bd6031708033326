"""Forecasts several weeks ahead, by recursion: each week's forecast counts as sales for the weeks after it."""

import datetime
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import ENTITY_KEYS, LABEL, ON_DEMAND, SALES_WINDOW, STORE_EXTERNAL, TIMESTAMP, WINDOW_WEEKS
from feature_repo.transformations import INPUTS, on_demand_features
from forecast_assets.ingest.drop import DAYS_PER_WEEK, Drop
from forecast_assets.ingest.feature_tables import (
    WEEKS_PER_YEAR,
    sales_features_table,
    sales_windows_table,
    store_features_table,
    train_end,
)

# The furthest back that a feature of the coming week looks: the 4 weeks before the same week a year ago.
_WEEKS_OF_HISTORY = WEEKS_PER_YEAR + 5

Floats = npt.NDArray[np.float64]


class Model(Protocol):
    """What a forecast is asked of."""

    def predict(self, table: pa.Table) -> Floats:
        """Dollars per row."""
        ...


def forecast_ahead(model: Model, drop: Drop, weeks: int) -> pa.Table:
    """Forecast every live series for each of the ``weeks`` after the last one with sales.

    Calendar, holidays and whatever features.csv says of later weeks are known; sales are known up to the drop's last
    week, and from then on are the forecasts themselves. A store's row of features.csv holds until its next one.

    Returns:
        store, dept, week (date), weeks_ahead (1 is the coming week) and forecast (dollars), by week and series.
    """
    past = _without_old_weeks(drop)
    steps = []
    for ahead in range(1, weeks + 1):
        features = coming_week_features(past)
        forecast = model.predict(features)
        week = train_end(past) + datetime.timedelta(days=DAYS_PER_WEEK)
        steps.append(
            pa.table(
                {
                    **{key: features[key] for key in ENTITY_KEYS},
                    "week": pa.array([week] * len(forecast), pa.date32()),
                    "weeks_ahead": pa.array([ahead] * len(forecast), pa.int32()),
                    "forecast": forecast,
                }
            )
        )
        past = _with_sales(past, steps[-1], features)
    return pa.concat_tables(steps)


def coming_week_features(drop: Drop) -> pa.Table:
    """All features of every live series for the week after the last one with sales, as the online store holds them."""
    sales = sales_features_table(drop).rows
    rows = sales.filter(pc.is_null(sales[LABEL])).drop_columns(["date", LABEL])
    table = pa.table({**_columns(rows), **_store_columns(drop, rows), SALES_WINDOW[0].name: _windows(drop, rows)})
    inputs = {name: _floats(table, name) for names in INPUTS.values() for name in names}
    computed = on_demand_features(inputs)
    return pa.table({**_columns(table), **{feature.name: computed[feature.name] for feature in ON_DEMAND}})


def as_of(drop: Drop, week: datetime.date) -> Drop:
    """The drop as it could have been at the end of ``week``: no later sales, and of later weeks in features.csv only
    the holidays, because weather, prices and promotions were not measured yet."""
    train, features = drop.train.table, drop.features.table
    measured = [name for name in features.column_names if name not in ("Store", "Date", "IsHoliday")]
    known = pc.less_equal(features["Date"], week)
    hidden = {
        name: pc.if_else(known, features[name], pa.scalar(None, features.schema.field(name).type)) for name in measured
    }
    columns = {name: hidden.get(name, features[name]) for name in features.column_names}
    return replace(
        drop,
        train=replace(drop.train, table=train.filter(pc.less_equal(train["Date"], week))),
        features=replace(drop.features, table=pa.table(columns)),
    )


def _without_old_weeks(drop: Drop) -> Drop:
    train = drop.train.table
    oldest = train_end(drop) - datetime.timedelta(days=DAYS_PER_WEEK * (_WEEKS_OF_HISTORY - 1))
    return replace(drop, train=replace(drop.train, table=train.filter(pc.greater_equal(train["Date"], oldest))))


def _with_sales(drop: Drop, forecasts: pa.Table, features: pa.Table) -> Drop:
    train = drop.train.table
    forecast_week = pa.table(
        {
            "Store": forecasts["store"],
            "Dept": forecasts["dept"],
            "Date": forecasts["week"],
            "Weekly_Sales": forecasts["forecast"],
            "IsHoliday": features["is_holiday"],
        }
    )
    longer = pa.concat_tables([train, forecast_week.select(train.column_names).cast(train.schema)])
    ordered = longer.sort_by([(column, "ascending") for column in ("Store", "Dept", "Date")])
    return _without_old_weeks(replace(drop, train=replace(drop.train, table=ordered)))


def _store_columns(drop: Drop, rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    """What features.csv last says of each row's store up to the row's week."""
    stored = store_features_table(drop).rows
    known = stored.filter(pc.less_equal(stored[TIMESTAMP], rows[TIMESTAMP][0]))
    last = np.searchsorted(known["store"].to_numpy(), rows["store"].to_numpy(), side="right") - 1
    return {feature.name: known[feature.name].take(pa.array(last)) for feature in STORE_EXTERNAL}


def _windows(drop: Drop, rows: pa.Table) -> pa.Array:
    """The sales of the weeks before the coming one, per row."""
    windows = sales_windows_table(drop).rows
    sales = windows["sales"].combine_chunks()
    newest = sales.flatten().to_numpy().reshape(len(sales), -1)[:, -WINDOW_WEEKS:]
    # Both are sorted by key, and a live series has a window.
    position = {key: n for n, key in enumerate(zip(*(windows[key].to_pylist() for key in ENTITY_KEYS), strict=True))}
    mine = [position[key] for key in zip(*(rows[key].to_pylist() for key in ENTITY_KEYS), strict=True)]
    return pa.FixedSizeListArray.from_arrays(pa.array(newest[mine].ravel()), WINDOW_WEEKS).cast(pa.list_(pa.float64()))


def _columns(table: pa.Table) -> dict[str, Any]:
    return {name: table[name] for name in table.column_names}


def _floats(table: pa.Table, name: str) -> Floats:
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)
