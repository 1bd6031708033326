"""The feature tables computed from a drop.

Sales are laid out as a dense panel, one row per series and one column per calendar week, NaN where the week is missing.
A lag by calendar week is then a shifted copy, and a window a sum of shifted copies in a fixed order, so that the same
sales give the same bits however many weeks come after them.
"""

import datetime
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import (
    ENTITY_KEYS,
    LABEL,
    SALES_HISTORY,
    STORE_EXTERNAL,
    TIMESTAMP,
    WINDOW_WEEKS,
    Feature,
)
from forecast_assets.ingest.drop import DAYS_PER_WEEK, LIVE_WEEKS, Drop

WEEKS_PER_YEAR = 52

Floats = npt.NDArray[np.float64]
Panel = npt.NDArray[np.float64]  # [series, week]


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """A feature table to be published: its rows, sorted by key, and the key that makes a row unique."""

    name: str
    key: tuple[str, ...]
    rows: pa.Table


def sales_features_table(drop: Drop) -> FeatureTable:
    """One row per (store, dept, week) with sales, and one per live series for the coming week with the label empty.

    A series is live if it had sales in the last ``LIVE_WEEKS`` weeks. The coming week is the one after the last week
    of train.csv, the same for all series.
    """
    panel = _sales_panel(drop.train.table)
    present = ~np.isnan(panel.sales)
    present[:, -1] = present[:, -1 - LIVE_WEEKS : -1].any(axis=1)
    row, week = np.nonzero(present)

    dates = panel.weeks[week]
    values: dict[str, npt.NDArray[np.generic]] = {
        name: values[row, week] for name, values in _history(panel.sales, present).items()
    }
    values["is_holiday"] = _holiday_flags(drop, panel)[row, week]
    table = _assemble(
        {"store": panel.stores[row], "dept": panel.depts[row]}, dates, values | _calendar(dates), SALES_HISTORY
    )
    return FeatureTable("sales_features", (*ENTITY_KEYS, "date"), table)


def sales_windows_table(drop: Drop) -> FeatureTable:
    """One row per series: all its sales in one array, of which the window before a week is a slice.

    ``sales`` starts ``WINDOW_WEEKS`` weeks before ``first_week``, so that the slice for week i (0 is ``first_week``) is
    ``sales[i + 1 : i + WINDOW_WEEKS]`` in SQL, where numbering starts at 1 and ends are included. ``last_week`` is the
    coming week, the last one that has a window. A week without a row is NaN and not NULL, which Feast's online
    messages have no room for.
    """
    panel = _sales_panel(drop.train.table)
    before = np.full((len(panel.stores), WINDOW_WEEKS), np.nan)
    padded = np.hstack([before, panel.sales[:, :-1]])
    lists = pa.FixedSizeListArray.from_arrays(pa.array(padded.ravel()), padded.shape[1])
    table = pa.table(
        {
            "store": panel.stores,
            "dept": panel.depts,
            "first_week": np.full(len(panel.stores), panel.weeks[0]),
            "last_week": np.full(len(panel.stores), panel.weeks[-1]),
            "sales": lists.cast(pa.list_(pa.float64())),
        }
    )
    return FeatureTable("sales_windows", ENTITY_KEYS, table)


def store_features_table(drop: Drop) -> FeatureTable:
    """One row per (store, week) of features.csv, with the store's type and size; it reaches beyond the sales."""
    rows = drop.features.table
    stores = drop.stores.table
    position = pc.index_in(rows["Store"], value_set=stores["Store"])
    markdowns = [rows[f"MarkDown{n}"] for n in range(1, 6)]
    filled = np.stack([pc.fill_null(markdown, 0.0).to_numpy() for markdown in markdowns])
    values: dict[str, npt.NDArray[np.generic] | pa.ChunkedArray] = {
        "temperature": rows["Temperature"],
        "fuel_price": rows["Fuel_Price"],
        "cpi": rows["CPI"],
        "unemployment": rows["Unemployment"],
        **{f"markdown{n}": markdown for n, markdown in enumerate(markdowns, start=1)},
        "total_markdown": filled.sum(axis=0),
        "has_markdown": np.any([markdown.is_valid().to_numpy() for markdown in markdowns], axis=0),
        "store_type": pc.take(stores["Type"], position),
        "store_size": pc.take(stores["Size"], position),
    }
    table = _assemble({"store": rows["Store"].to_numpy()}, rows["Date"].to_numpy(), values, STORE_EXTERNAL)
    return FeatureTable("store_features", ("store", "date"), table)


@dataclass(frozen=True, slots=True)
class _SalesPanel:
    """Sales [series, week] in dollars, NaN where there is no row; the last week is the coming one.

    Attributes:
        stores, depts: the key of each series.
        weeks: the date of each column.
        series, columns: where each row of train.csv is.
    """

    sales: Panel
    stores: npt.NDArray[np.int64]
    depts: npt.NDArray[np.int64]
    weeks: npt.NDArray[np.datetime64]
    series: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]


def _sales_panel(train: pa.Table) -> _SalesPanel:
    weeks = _week_numbers(train["Date"])
    first = int(weeks.min())
    columns = weeks - first
    n_weeks = int(columns.max()) + 2
    stores, depts = train["Store"].to_numpy(), train["Dept"].to_numpy()
    # train is sorted by (Store, Dept, Date): a series starts where its key differs from the row before.
    starts = np.r_[True, (stores[1:] != stores[:-1]) | (depts[1:] != depts[:-1])]
    series = np.cumsum(starts) - 1
    sales: Panel = np.full((int(series[-1]) + 1, n_weeks), np.nan)
    sales[series, columns] = train["Weekly_Sales"].to_numpy()
    dates = _dates(first + np.arange(n_weeks), train["Date"])
    return _SalesPanel(sales, stores[starts], depts[starts], dates, series, columns)


def _history(sales: Panel, present: npt.NDArray[np.bool_]) -> dict[str, npt.NDArray[np.generic]]:
    """Everything of ``SALES_HISTORY`` that derives from sales, as panels [series, week]."""
    panels: dict[str, npt.NDArray[np.generic]] = {LABEL: sales}
    for weeks in (1, 2, 3, 4, 51, 52, 53):
        panels[f"sales_lag_{weeks}"] = _lag(sales, weeks)
    panels["sales_rolling_mean_4"] = mean_4 = _rolling_mean(sales, 4)
    panels["sales_rolling_mean_12"] = _rolling_mean(sales, 12)
    panels["sales_rolling_std_4"] = _rolling_std(sales, 4, mean_4)
    panels["sales_rolling_mean_4_lag_52"] = _lag(mean_4, WEEKS_PER_YEAR)
    panels["weeks_since_last_sale"] = _weeks_since_last(present)
    return panels


def _lag(panel: Panel, weeks: int) -> Panel:
    lagged = np.full_like(panel, np.nan)
    lagged[:, weeks:] = panel[:, :-weeks]
    return lagged


def _rolling_mean(sales: Panel, weeks: int) -> Panel:
    """Mean over the present weeks among the ``weeks`` before; NaN where there is none."""
    total, count = np.zeros_like(sales), np.zeros_like(sales)
    for distance in range(1, weeks + 1):
        lagged = _lag(sales, distance)
        there = ~np.isnan(lagged)
        total[there] += lagged[there]
        count += there
    return np.divide(total, count, out=np.full_like(sales, np.nan), where=count > 0)


def _rolling_std(sales: Panel, weeks: int, mean: Panel) -> Panel:
    """Sample standard deviation (n - 1) over the same weeks; NaN where fewer than two are present."""
    squares, count = np.zeros_like(sales), np.zeros_like(sales)
    for distance in range(1, weeks + 1):
        deviation = _lag(sales, distance) - mean
        there = ~np.isnan(deviation)
        squares[there] += deviation[there] ** 2
        count += there
    variance = np.divide(squares, count - 1, out=np.full_like(sales, np.nan), where=count > 1)
    return np.sqrt(variance)


def _weeks_since_last(present: npt.NDArray[np.bool_]) -> Floats:
    week = np.arange(present.shape[1])
    last = np.maximum.accumulate(np.where(present, week, -1), axis=1)
    before = np.full(present.shape, -1)
    before[:, 1:] = last[:, :-1]
    return np.where(before >= 0, week - before, np.nan)


def _holiday_flags(drop: Drop, panel: _SalesPanel) -> npt.NDArray[np.bool_]:
    """Flags [series, week]: train.csv's own, and for the coming week features.csv's, else those of 52 weeks before."""
    flags = np.zeros(panel.sales.shape, dtype=np.bool_)
    flags[panel.series, panel.columns] = drop.train.table["IsHoliday"].to_numpy(zero_copy_only=False)
    coming = train_end(drop) + datetime.timedelta(days=DAYS_PER_WEEK)
    announced = drop.features.table.filter(pc.equal(drop.features.table["Date"], coming))
    if len(panel.weeks) > WEEKS_PER_YEAR:
        flags[:, -1] = flags[:, -1 - WEEKS_PER_YEAR].any()
    said = np.isin(panel.stores, announced["Store"].to_numpy())
    flags[said, -1] = np.isin(panel.stores[said], announced.filter(announced["IsHoliday"])["Store"].to_numpy())
    return flags


def train_end(drop: Drop) -> datetime.date:
    """The last week with sales."""
    weeks = drop.train.weeks
    assert weeks is not None  # noqa: S101 - train.csv has a Date column by its schema
    return weeks[1]


def _week_numbers(dates: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    days = dates.cast(pa.int32()).to_numpy().astype(np.int64)
    return days // DAYS_PER_WEEK


def _dates(week_numbers: npt.NDArray[np.int64], like: pa.ChunkedArray) -> npt.NDArray[np.datetime64]:
    weekday = like[0].cast(pa.int32()).as_py() % DAYS_PER_WEEK
    return (week_numbers * DAYS_PER_WEEK + weekday).astype("datetime64[D]")


def _calendar(dates: npt.NDArray[np.datetime64]) -> dict[str, npt.NDArray[np.generic]]:
    days, positions = np.unique(dates, return_inverse=True)
    calendar = pa.array(days.astype("datetime64[D]"))
    return {
        "week_of_year": pc.iso_week(calendar).to_numpy()[positions],
        "month": pc.month(calendar).to_numpy()[positions],
        "quarter": pc.quarter(calendar).to_numpy()[positions],
    }


def _assemble(
    keys: dict[str, npt.NDArray[np.int64]],
    dates: npt.NDArray[np.datetime64],
    values: dict[str, npt.NDArray[np.generic] | pa.ChunkedArray],
    features: tuple[Feature, ...],
) -> pa.Table:
    days = pa.array(dates.astype("datetime64[D]"))
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {name: pa.array(key) for name, key in keys.items()}
    arrays["date"] = days
    arrays[TIMESTAMP] = days.cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    for feature in features:
        arrays[feature.name] = _typed(values[feature.name], feature)
    return pa.table(arrays)


def _typed(values: npt.NDArray[np.generic] | pa.ChunkedArray, feature: Feature) -> pa.Array | pa.ChunkedArray:
    kind = pa.type_for_alias(feature.type)
    if isinstance(values, np.ndarray):
        # NaN stands for missing in the panels only; in tables and frames a missing value is NULL.
        return pa.array(values, from_pandas=True).cast(kind)
    return values.cast(kind)
