"""What must hold of a drop, whatever it is: refused by name, or accepted with every invariant in place.

What was accepted is read again here by other means (the csv module, dictionaries), and the features are computed
again week by week from that.
"""

import csv
import datetime
import gzip
import io
import math
import statistics
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import LABEL, ON_DEMAND, TIMESTAMP
from feature_repo.transformations import INPUTS, on_demand_features
from forecast_assets.drift import stability
from forecast_assets.frame_checks import incomplete_weeks, leaks
from forecast_assets.horizon import coming_week_features, forecast_ahead
from forecast_assets.ingest.csv_tables import FEATURES, STORES, TRAIN, CsvSchema
from forecast_assets.ingest.drop import Drop, row_changes
from forecast_assets.ingest.feature_tables import FeatureTable
from forecast_assets.ingest.files import DropRefusedError, locate
from forecast_assets.schemas import validate_training_frame
from trainer.forecaster import Forecaster

from .draft import FILES, Draft

SCHEMAS = dict(zip(FILES, (TRAIN, FEATURES, STORES), strict=True))
LONGEST_MESSAGE = 1_500
LAGS = (1, 2, 3, 4, 51, 52, 53)
WEEK = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Base:
    """The drop that was accepted before, with the frame and the model made from it."""

    drop: Drop
    frame: pa.Table
    model: Forecaster


def faults_of_refusal(refusal: DropRefusedError, draft: Draft, before: Draft) -> Iterator[str]:
    """What a person could not use in the message of a refusal, and where it blames what has not been changed."""
    message = str(refusal)
    touched, named = draft.touched(before), [file for file in FILES if file in message]
    if not set(named) & set(touched):
        yield f"changed was {' and '.join(touched) or 'nothing'}, but the refusal says: {message!r}"
    if refusal.bad_by_itself and refusal.sent is not None and refusal.sent.name not in touched:
        yield f"{refusal.sent.name} is refused as bad by itself, but was not changed: {message!r}"
    if len(touched) == len(named) == 1 and (line := draft.one_line_changed(before, *touched)):
        yield from _faults_of_place(message, line, *touched)
    if len(message) > LONGEST_MESSAGE:
        yield f"the refusal has {len(message):,} characters: {message[:80]!r}"
    if hidden := [character for character in message if unicodedata.category(character).startswith("C")]:
        yield f"the refusal holds {hidden[0]!r}, which does not show or moves the cursor: {message[:200]!r}"


def _faults_of_place(message: str, line: int, file: str) -> Iterator[str]:
    """Where the message is not about the one line that was changed; that of the header may name a column instead."""
    columns = [column.header for column in SCHEMAS[file].columns]
    if f"line {line:,}" not in message and not (line == 1 and any(name in message for name in columns)):
        yield f"changed was line {line:,} of {file}, but the refusal says: {message!r}"


def faults_of_reading(folder: Path, drop: Drop) -> Iterator[str]:
    """Where the accepted values are not those that the csv module finds in the files."""
    for file in drop.files:
        schema, found = SCHEMAS[file.name], _read_again(folder, file.name)
        keys = [_key(row, schema) for row in found]
        expected = dict(zip(keys, found, strict=True))
        actual = {_key(row, schema): row for row in file.table.to_pylist()}
        if actual != expected:
            key = next(key for key in [*expected, *actual] if expected.get(key) != actual.get(key))
            yield f"{file.name}: read as {actual.get(key)}, the file says {expected.get(key)}"
        if len(actual) != file.table.num_rows:
            yield f"{file.name}: a key appears more than once"


def _key(row: dict[str, Any], schema: CsvSchema) -> tuple[Any, ...]:
    return tuple(row[name] for name in schema.key)


def _read_again(folder: Path, name: str) -> list[dict[str, Any]]:
    content = locate(folder, name).read_bytes()
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read(archive.namelist()[0])
    elif content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    header, *lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=None))
    position = {title.strip(): place for place, title in enumerate(header)}
    return [
        {column.header: _value(line[position[column.header]], str(column.type)) for column in SCHEMAS[name].columns}
        for line in lines
        if line
    ]


def _value(text: str, kind: str) -> Any:
    if kind == "string":
        return text
    text = text.strip(" \t")
    if text in {"", "NA"}:
        return None
    if kind == "bool":
        return {"true": True, "false": False}[text.lower()]
    if kind == "date32[day]":
        return datetime.date.fromisoformat(text)
    return int(text) if kind == "int64" else float(text)


def faults_of_tables(drop: Drop, sales: FeatureTable, stores: FeatureTable, windows: FeatureTable) -> Iterator[str]:
    """Where the tables are not what their definitions say, computed again from the accepted sales."""
    for table in (sales, stores, windows):
        keys = table.rows.select(list(table.key))
        if keys.group_by(list(table.key)).aggregate([]).num_rows != keys.num_rows:
            yield f"{table.name}: a key appears more than once"
        yield from _not_finite(table.name, table.rows)
    sold: dict[tuple[int, int], dict[datetime.date, float]] = {}
    for row in drop.train.table.to_pylist():
        sold.setdefault((row["Store"], row["Dept"]), {})[row["Date"]] = row["Weekly_Sales"]
    last = max(day for series in sold.values() for day in series)
    coming = last + WEEK
    rows = {(row["store"], row["dept"], row["date"]): row for row in sales.rows.to_pylist()}
    weekdays = {key[2].weekday() for key in rows}
    if len(weekdays) != 1 or weekdays != {last.weekday()}:
        yield f"weeks are dated on different weekdays: {weekdays}"
    live = {key for key, series in sold.items() if max(series) > last - 52 * WEEK}
    wanted = {(*key, day) for key, series in sold.items() for day in series} | {(*key, coming) for key in live}
    if rows.keys() != wanted:
        yield f"sales_features has other rows than were sold: {sorted(rows.keys() ^ wanted)[:3]}"
        return
    for (store, dept, day), row in rows.items():
        for name, value in _history(sold[store, dept], day).items():
            if not _same(row[name], value):
                yield f"{name} of store {store}, dept {dept}, {day} is {row[name]}, not {value}"
                return


def _history(series: dict[datetime.date, float], day: datetime.date) -> dict[str, float | None]:
    def mean(values: list[float]) -> float | None:
        return statistics.fmean(values) if values else None

    def before(start: datetime.date, weeks: int) -> list[float]:
        days = (start - number * WEEK for number in range(1, weeks + 1))
        return [series[each] for each in days if each in series]

    earlier = [each for each in series if each < day]
    return {
        LABEL: series.get(day),
        **{f"sales_lag_{lag}": series.get(day - lag * WEEK) for lag in LAGS},
        "sales_rolling_mean_4": mean(before(day, 4)),
        "sales_rolling_mean_12": mean(before(day, 12)),
        "sales_rolling_mean_4_lag_52": mean(before(day - 52 * WEEK, 4)),
        "weeks_since_last_sale": (day - max(earlier)).days // 7 if earlier else None,
    }


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6)


def _not_finite(name: str, rows: pa.Table) -> Iterator[str]:
    for column in rows.column_names:
        if pa.types.is_floating(rows[column].type) and not pc.all(pc.is_finite(rows[column]), min_count=0).as_py():
            yield f"{name}: {column} holds NaN or infinity"


def training_frame(sales: pa.Table, stores: pa.Table) -> pa.Table:
    """The training frame of these tables, joined here: the labelled rows with what was last known of their store."""
    labelled = (
        sales.filter(pc.is_valid(sales[LABEL]))
        .drop_columns(["date"])
        .sort_by([(TIMESTAMP, "ascending"), ("store", "ascending"), ("dept", "ascending")])
    )
    known = stores.drop_columns(["date"]).sort_by([(TIMESTAMP, "ascending")])
    days, tolerance = pc.cast(labelled[TIMESTAMP], pa.int64()), 20 * 366 * 24 * 3600 * 10**6
    left = labelled.append_column("time", days)
    right = known.append_column("time", pc.cast(known[TIMESTAMP], pa.int64())).drop_columns([TIMESTAMP])
    joined = left.join_asof(right, on="time", by="store", tolerance=-tolerance).drop_columns(["time"])
    names = {name for names in INPUTS.values() for name in names}
    computed = on_demand_features({name: _floats(joined, name) for name in names})
    for feature in ON_DEMAND:
        joined = joined.append_column(feature.name, pa.array(computed[feature.name]))
    return joined


def _floats(table: pa.Table, name: str) -> Any:
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def faults_of_frame(frame: pa.Table) -> Iterator[str]:
    """What a published frame may not hold."""
    yield from _not_finite("the frame", frame)
    for failure in validate_training_frame(frame):
        yield f"the frame would be refused: {failure.column} {failure.rule}, first {failure.first_values}"
    for leak in leaks(frame):
        yield f"the frame leaks: {leak.place}: {leak.problem}"


def faults_of_forecasts(base: Base, drop: Drop, sales: FeatureTable) -> Iterator[str]:
    """Whether the model of the drop before gives a forecast of every live series."""
    features = coming_week_features(drop)
    quantiles = base.model.predict_quantiles(features)
    live = sales.rows.filter(pc.is_null(sales.rows[LABEL])).select(["store", "dept"]).to_pylist()
    if features.select(["store", "dept"]).to_pylist() != live:
        yield "the series that are forecast are not those that are live"
    if not np.isfinite(quantiles).all():
        yield f"{(~np.isfinite(quantiles)).sum()} forecasts are not finite"
    elif not (np.diff(quantiles, axis=1) >= 0).all():
        yield "a forecast's quantiles are not in order"
    elif not np.isfinite(forecast_ahead(base.model, drop, 2)["forecast"].to_numpy()).all():
        yield "a forecast of the second week is not finite"


def warnings(base: Base, drop: Drop, frame: pa.Table) -> list[str]:
    """The checks that would warn of an accepted drop."""
    found = []
    if row_changes(base.drop.train.table, drop.train.table, TRAIN.key).removed:
        found.append("keeps_history")
    if incomplete_weeks(frame):
        found.append("complete_weeks")
    if any(column.drifted for column in stability(frame, base.frame)):
        found.append("no_drift")
    return found
