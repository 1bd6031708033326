"""The feature tables against their definitions, written out row by row, and against leaks from the future."""

import statistics
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.features import ENTITY_KEYS, LABEL, SALES_HISTORY, STORE_EXTERNAL, TIMESTAMP, names
from forecast_assets.content_hash import content_hash
from forecast_assets.ingest.csv_tables import FEATURES, STORES, TRAIN, CsvSchema
from forecast_assets.ingest.drop import Drop, DropFile
from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table

Series = dict[int, float]  # sales by week number
Sales = dict[tuple[int, int], Series]  # by store and department
Value = float | int | bool | None

FIRST_WEEK = date(2010, 2, 5)
LAGS = (1, 2, 3, 4, 51, 52, 53)


def date_of(week: int) -> date:
    return FIRST_WEEK + timedelta(weeks=week)


def is_holiday(week: int) -> bool:
    return week % 52 in (1, 31, 42, 47)


def file(name: str, schema: CsvSchema, rows: Sequence[tuple[object, ...]]) -> DropFile:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema.columns)
    table = pa.table(
        {column.header: pa.array(values, column.type) for column, values in zip(schema.columns, columns, strict=True)}
    )
    return DropFile(name, Path(name), "", len(rows), table)


def drop_of(sales: Sales, announced: dict[int, bool] | None = None) -> Drop:
    """A drop with these sales; ``announced`` are the weeks of features.csv, which has no other."""
    train = [
        (store, dept, date_of(week), amount, is_holiday(week))
        for (store, dept), series in sorted(sales.items())
        for week, amount in sorted(series.items())
    ]
    stores = sorted({store for store, _ in sales})
    features = [
        (store, date_of(week), *[None] * 9, flag) for store in stores for week, flag in (announced or {}).items()
    ]
    return Drop(
        file("train.csv", TRAIN, train),
        file("features.csv", FEATURES, features),
        file("stores.csv", STORES, [(store, "A", 1000) for store in stores]),
    )


# Weeks close together and about one and two years apart, so that windows and yearly lags both meet rows and gaps.
some_weeks = st.sampled_from([*range(8), *range(48, 60), *range(100, 113)])
some_sales = st.dictionaries(
    st.sampled_from([(1, 1), (1, 11), (11, 1), (2, 7)]),
    st.dictionaries(some_weeks, st.integers(-500_000, 30_000_000).map(lambda cents: cents / 100), min_size=1),
    min_size=1,
)


def expected_row(series: Series, week: int) -> dict[str, Value]:
    def window(before: int, weeks: int) -> list[float]:
        return [series[w] for w in range(before - weeks, before) if w in series]

    def mean(values: list[float]) -> float | None:
        return statistics.fmean(values) if values else None

    day = date_of(week)
    earlier = [w for w in series if w < week]
    last_four = window(week, 4)
    return {
        LABEL: series.get(week),
        "is_holiday": is_holiday(week),
        "week_of_year": day.isocalendar().week,
        "month": day.month,
        "quarter": (day.month + 2) // 3,
        **{f"sales_lag_{lag}": series.get(week - lag) for lag in LAGS},
        "sales_rolling_mean_4": mean(last_four),
        "sales_rolling_mean_12": mean(window(week, 12)),
        "sales_rolling_std_4": statistics.stdev(last_four) if len(last_four) > 1 else None,
        "sales_rolling_mean_4_lag_52": mean(window(week - 52, 4)),
        "weeks_since_last_sale": week - max(earlier) if earlier else None,
    }


@given(some_sales)
def test_every_row_is_what_its_definition_says(sales: Sales) -> None:
    coming = max(week for series in sales.values() for week in series) + 1
    expected = [
        {"store": store, "dept": dept, "date": date_of(week), **expected_row(series, week)}
        for (store, dept), series in sorted(sales.items())
        for week in [*sorted(series), *([coming] if max(series) >= coming - 52 else [])]
    ]
    table = sales_features_table(drop_of(sales, {coming: is_holiday(coming)})).rows
    assert table.column_names == [*ENTITY_KEYS, "date", TIMESTAMP, *names(SALES_HISTORY)]
    assert table[TIMESTAMP].cast(pa.date32()).equals(table["date"])
    rows = table.drop_columns([TIMESTAMP]).to_pylist()
    assert [[row["store"], row["dept"], row["date"]] for row in rows] == [
        [row["store"], row["dept"], row["date"]] for row in expected
    ]
    for row, wanted in zip(rows, expected, strict=True):
        numbers = {name: value for name, value in wanted.items() if isinstance(value, float)}
        assert {name: row[name] for name in numbers} == pytest.approx(numbers, rel=1e-9, abs=1e-6)
        assert {n: v for n, v in row.items() if n not in numbers} == {
            n: v for n, v in wanted.items() if n not in numbers
        }


@given(st.dates(date(1950, 1, 1), date(2100, 1, 1)))
def test_the_calendar_is_right_for_any_year_and_weekday(day: date) -> None:
    train = file("train.csv", TRAIN, [(1, 1, day, 5.0, False)])
    drop = Drop(train, drop_of({(1, 1): {0: 1.0}}).features, file("stores.csv", STORES, [(1, "A", 1)]))
    rows = sales_features_table(drop).rows
    days = [day, day + timedelta(weeks=1)]
    assert rows["date"].to_pylist() == days
    assert rows["week_of_year"].to_pylist() == [day.isocalendar().week for day in days]
    assert rows["month"].to_pylist() == [day.month for day in days]
    assert rows["quarter"].to_pylist() == [(day.month + 2) // 3 for day in days]


@given(some_sales, st.data())
def test_a_weeks_own_sales_reach_no_feature_of_that_week_or_an_earlier_one(sales: Sales, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(sales)))
    week = data.draw(st.sampled_from(sorted(sales[key])))
    changed = sales | {key: sales[key] | {week: sales[key][week] + 1000}}
    before, after = (sales_features_table(drop_of(s)).rows for s in (sales, changed))

    of_series = pc.and_(pc.equal(before["store"], key[0]), pc.equal(before["dept"], key[1]))
    later = pc.and_(of_series, pc.greater(before["date"], date_of(week)))
    own = pc.and_(of_series, pc.equal(before["date"], date_of(week)))
    untouched = pc.invert(pc.or_(later, own))
    assert content_hash(after.filter(untouched)) == content_hash(before.filter(untouched))
    assert after.filter(own)[LABEL].to_pylist() == [changed[key][week]]
    features = before.drop_columns([LABEL]).filter(own)
    assert content_hash(after.drop_columns([LABEL]).filter(own)) == content_hash(features)


@given(some_sales, some_weeks)
def test_later_weeks_change_no_bit_of_the_labelled_rows_before_them(sales: Sales, cut: int) -> None:
    earlier = {key: {w: amount for w, amount in series.items() if w < cut} for key, series in sales.items()}
    earlier = {key: series for key, series in earlier.items() if series}
    if not earlier:
        return

    def labelled(table: pa.Table) -> pa.Table:
        return table.filter(pc.and_(pc.is_valid(table[LABEL]), pc.less(table["date"], date_of(cut))))

    with_later_weeks, without = (labelled(sales_features_table(drop_of(s)).rows) for s in (sales, earlier))
    assert content_hash(with_later_weeks) == content_hash(without)


@pytest.mark.parametrize(("last_sale", "alive"), [(80, True), (79, True), (29, True), (28, False), (0, False)], ids=str)
def test_a_series_has_a_coming_week_until_52_weeks_after_its_last_sale(last_sale: int, alive: bool) -> None:
    table = sales_features_table(drop_of({(1, 1): {80: 10.0}, (1, 2): {last_sale: 5.0}})).rows
    coming = table.filter(pc.equal(table["date"], date_of(81)))
    assert coming["dept"].to_pylist() == ([1, 2] if alive else [1])
    assert coming[LABEL].null_count == coming.num_rows
    assert table.num_rows - coming.num_rows == 2


@pytest.mark.parametrize(
    ("last_week", "announced", "expected"),
    [
        pytest.param(82, {83: True}, True, id="features.csv says holiday"),
        pytest.param(82, {83: False}, False, id="features.csv says none, against last year"),
        pytest.param(82, {}, True, id="holiday 52 weeks before, in train.csv"),
        pytest.param(81, {}, False, id="no holiday 52 weeks before"),
        pytest.param(20, {}, False, id="less than a year of sales"),
    ],
)
def test_the_coming_weeks_holiday_is_announced_or_that_of_52_weeks_before(
    last_week: int, announced: dict[int, bool], expected: bool
) -> None:
    sales = {(1, 1): dict.fromkeys(range(last_week + 1), 1.0), (2, 1): {last_week: 2.0}}
    table = sales_features_table(drop_of(sales, announced)).rows
    assert table.filter(pc.is_null(table[LABEL]))["is_holiday"].to_pylist() == [expected, expected]


def test_each_store_has_the_holiday_that_is_announced_for_it() -> None:
    drop = drop_of({(1, 1): {5: 1.0}, (2, 1): {5: 1.0}})
    features = [(1, date_of(6), *[None] * 9, True), (2, date_of(6), *[None] * 9, False)]
    table = sales_features_table(Drop(drop.train, file("features.csv", FEATURES, features), drop.stores)).rows
    assert table.filter(pc.is_null(table[LABEL]))["is_holiday"].to_pylist() == [True, False]


markdowns = st.lists(st.none() | st.floats(-100, 50_000), min_size=5, max_size=5)
measured = st.none() | st.floats(-20, 400)
regional = st.tuples(measured, measured, markdowns, measured, measured)


@given(st.dictionaries(st.tuples(st.integers(1, 12), st.integers(0, 60)), regional, min_size=1, max_size=20))
def test_every_store_row_is_what_features_and_stores_say(
    known: dict[tuple[int, int], tuple[Value, Value, list[float | None], Value, Value]],
) -> None:
    rows: list[tuple[object, ...]] = [
        (store, date_of(week), temperature, fuel, *marks, cpi, unemployment, False)
        for (store, week), (temperature, fuel, marks, cpi, unemployment) in sorted(known.items())
    ]
    stores = file("stores.csv", STORES, [(store, "ABC"[store % 3], store * 100) for store in range(12, 0, -1)])
    table = store_features_table(Drop(drop_of({(1, 1): {0: 1.0}}).train, file("f", FEATURES, rows), stores)).rows
    assert table.column_names == ["store", "date", TIMESTAMP, *names(STORE_EXTERNAL)]
    for row, (store, day, temperature, fuel, *marks, cpi, unemployment, _) in zip(table.to_pylist(), rows, strict=True):
        assert isinstance(store, int)
        assert (row["store"], row["date"], row["temperature"], row["fuel_price"]) == (store, day, temperature, fuel)
        assert (row["cpi"], row["unemployment"]) == (cpi, unemployment)
        assert (row["store_type"], row["store_size"]) == ("ABC"[store % 3], store * 100)
        assert [row[f"markdown{number}"] for number in range(1, 6)] == marks
        given_ones = [mark for mark in marks if isinstance(mark, float)]
        assert row["has_markdown"] is (given_ones != [])
        assert row["total_markdown"] == pytest.approx(sum(given_ones), rel=1e-9, abs=1e-6)
