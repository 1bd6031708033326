"""Writes the three files, store by store, so that memory stays the same however many stores there are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TextIO

from forecast_assets.atomic import replacing
from forecast_assets.sample_data.assortment import Assortment, make_assortment
from forecast_assets.sample_data.catalog import STORE_TYPES
from forecast_assets.sample_data.external import MARKDOWNS, Surroundings
from forecast_assets.sample_data.sales import store_sales
from forecast_assets.sample_data.seasons import make_seasons
from forecast_assets.sample_data.weeks import FEATURE_WEEKS, IS_HOLIDAY, WEEKS, WEEKS_AHEAD, weeks_through

_DATES = [week.isoformat() for week in WEEKS]
_FLAGS = ["TRUE" if holiday else "FALSE" for holiday in IS_HOLIDAY]
_MARKDOWN_NAMES = ",".join(f"MarkDown{number}" for number in range(1, MARKDOWNS + 1))


@dataclass(frozen=True)
class SampleSummary:
    """What was written: data rows of each file, series, stores, and the first and last week of sales."""

    train_rows: int
    features_rows: int
    stores_rows: int
    series: int
    stores: int
    first_week: date
    last_week: date
    last_features_week: date


def write_sample_data(out: Path, *, seed: int = 1, size: float = 1.0, through: date | None = None) -> SampleSummary:
    """Write train.csv, features.csv and stores.csv to a folder; size 1 is the data set's own, 45 stores.

    With a date, the sales of later weeks are left out, and nothing else changes: the rest can arrive as a second
    drop. ValueError for a date outside the calendar, a size that is not above 0, or a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, not {seed}")
    sales_weeks = weeks_through(through)
    features_weeks = min(sales_weeks + WEEKS_AHEAD, FEATURE_WEEKS)
    assortment = make_assortment(seed, size)
    out.mkdir(parents=True, exist_ok=True)
    # Sales come last: whoever waits for them finds the other files complete.
    features_rows = _write(out / "features.csv", _features(seed, assortment, features_weeks))
    stores_rows = _write(out / "stores.csv", _stores(assortment))
    train_rows = _write(out / "train.csv", _sales(seed, assortment, sales_weeks))
    return SampleSummary(
        train_rows=train_rows,
        features_rows=features_rows,
        stores_rows=stores_rows,
        series=len(assortment.rows),
        stores=len(assortment.stores),
        first_week=WEEKS[0],
        last_week=WEEKS[sales_weeks - 1],
        last_features_week=WEEKS[features_weeks - 1],
    )


def _sales(seed: int, assortment: Assortment, weeks: int) -> Iterator[list[str]]:
    yield ["Store,Dept,Date,Weekly_Sales,IsHoliday"]
    seasons = make_seasons(seed, assortment.departments)
    dates, flags = _DATES[:weeks], _FLAGS[:weeks]
    for store in range(len(assortment.stores)):
        sales, present = store_sales(seed, assortment, seasons, store)
        numbers = assortment.departments.number[assortment.department[assortment.of_store(store)]]
        yield [
            f"{store + 1},{number},{week},{amount:.10g},{flag}"
            for number, amounts, recorded in zip(numbers.tolist(), sales.tolist(), present.tolist(), strict=True)
            for week, amount, flag, has_row in zip(dates, amounts, flags, recorded, strict=False)
            if has_row
        ]


def _features(seed: int, assortment: Assortment, weeks: int) -> Iterator[list[str]]:
    yield [f"Store,Date,Temperature,Fuel_Price,{_MARKDOWN_NAMES},CPI,Unemployment,IsHoliday"]
    surroundings = Surroundings(seed, assortment.stores)
    for store in range(len(assortment.stores)):
        conditions = surroundings.of_store(store)
        columns = (
            conditions.temperature,
            conditions.fuel_price,
            *conditions.markdowns,
            conditions.cpi,
            conditions.unemployment,
        )
        rows = zip(*(column[:weeks].tolist() for column in columns), strict=True)
        yield [
            f"{store + 1},{week},{','.join(map(_number_or_na, row))},{flag}"
            for week, row, flag in zip(_DATES[:weeks], rows, _FLAGS[:weeks], strict=True)
        ]


def _stores(assortment: Assortment) -> Iterator[list[str]]:
    yield ["Store,Type,Size"]
    stores = assortment.stores
    yield [
        f"{store},{STORE_TYPES[kind].name},{size}"
        for store, (kind, size) in enumerate(
            zip(stores.type_index.tolist(), stores.size.tolist(), strict=True), start=1
        )
    ]


def _number_or_na(value: float) -> str:
    # Ten digits hold every figure here, and the format drops trailing zeros; NaN is not equal to itself.
    return f"{value:.10g}" if value == value else "NA"


def _write(path: Path, blocks: Iterator[list[str]]) -> int:
    """Write a header and blocks of lines, and return how many lines came after the header."""
    lines = -1
    with _replaced_when_complete(path) as file:
        for block in blocks:
            file.write("".join(f"{line}\n" for line in block))
            lines += len(block)
    return lines


@contextmanager
def _replaced_when_complete(path: Path) -> Iterator[TextIO]:
    with replacing(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        yield file
