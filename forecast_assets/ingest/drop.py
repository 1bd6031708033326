"""A drop: train.csv, features.csv and stores.csv taken as one set, each valid and all of them in agreement."""

import datetime
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import TTL_DAYS
from forecast_assets.ingest.csv_tables import FEATURES, STORES, TRAIN, CsvSchema, line_of, parse
from forecast_assets.ingest.files import DropRefusedError, SentFile, read_file, refusals_concern
from forecast_assets.ingest.fingerprint import changes, fingerprint

DAYS_PER_WEEK = 7
LIVE_WEEKS = 52
MAX_YEARS_FROM_MEDIAN = 20
YEARS = (1900, 2199)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


FILES = ("train.csv", "features.csv", "stores.csv")


@dataclass(frozen=True, slots=True)
class DropFile:
    """One accepted file of a drop.

    Attributes:
        name: ``train.csv``, ``features.csv`` or ``stores.csv``.
        source: the file it was read from.
        content_hash: SHA-256 of its normalised text; the file's identity.
        rows: lines after the header.
        table: the typed rows, each key once, columns named as in the CSV.
    """

    name: str
    source: Path
    content_hash: str
    rows: int
    table: pa.Table

    @property
    def weeks(self) -> tuple[datetime.date, datetime.date] | None:
        """First and last week, or None for a file without dates."""
        if "Date" not in self.table.column_names:
            return None
        bounds = pc.min_max(self.table["Date"]).as_py()
        return bounds["min"], bounds["max"]


@dataclass(frozen=True, slots=True)
class Drop:
    """The three files of an accepted drop."""

    train: DropFile
    features: DropFile
    stores: DropFile

    @property
    def files(self) -> tuple[DropFile, DropFile, DropFile]:
        return self.train, self.features, self.stores


@dataclass(frozen=True, slots=True)
class RowChanges:
    """How the rows of a file differ from those of the one accepted before."""

    added: int
    corrected: int
    removed: int


def row_changes(before: pa.Table, after: pa.Table, key: tuple[str, ...]) -> RowChanges:
    """Compare two tables of the same schema row by row."""
    changed, gone = changes(fingerprint(before, key), fingerprint(after, key), key)
    added = after.num_rows - (before.num_rows - gone.num_rows)
    return RowChanges(added, int(changed.sum()) - added, gone.num_rows)


def read_drop(landing_zone: Path) -> Drop:
    """Read and validate the three files in ``landing_zone``.

    Raises:
        DropRefusedError: the first thing wrong, with file, line, column and value.
    """
    stores = _read(landing_zone, "stores.csv", STORES)
    features = _read(landing_zone, "features.csv", FEATURES)
    train = _read(landing_zone, "train.csv", TRAIN)
    for part in (train, features):
        with refusals_concern(part.sent, bad_by_itself=True):
            _check_plausible_dates(part.sent.name, part.rows)
    weekday = _weekday(train.rows)
    with refusals_concern(train.sent, bad_by_itself=True):
        _check_weekly_grid("train.csv", train.rows, weekday)
    for part in (train, features):
        with refusals_concern(part.sent, bad_by_itself=False):
            _check_known_stores(part.sent.name, part.rows, stores.file.table)
    with refusals_concern(features.sent, bad_by_itself=False):
        _check_weekly_grid("features.csv", features.rows, weekday)
        _check_live_stores_are_described(train.rows, features.rows)
    with refusals_concern(train.sent, bad_by_itself=False):
        _check_holidays_agree(train.rows, features.file.table)
    return Drop(train.file, features.file, stores.file)


@dataclass(frozen=True, slots=True)
class _Part:
    """A file that is good by itself; ``rows`` are in file order, repeats included, for checks that name lines."""

    file: DropFile
    rows: pa.Table
    sent: SentFile


def _read(folder: Path, name: str, schema: CsvSchema) -> _Part:
    raw = read_file(folder, name)
    sent = SentFile(name, raw.path, raw.signature, raw.content_hash)
    with refusals_concern(sent, bad_by_itself=True):
        rows = parse(raw, schema)
    distinct = rows.group_by(schema.key, use_threads=False).aggregate(
        [(column, "first") for column in rows.column_names if column not in schema.key]
    )
    distinct = distinct.rename_columns([column.removesuffix("_first") for column in distinct.column_names])
    table = distinct.select(rows.column_names).sort_by([(column, "ascending") for column in schema.key])
    file = DropFile(name, raw.path, raw.content_hash, rows.num_rows, table)
    return _Part(file, rows, replace(sent, rows=rows.num_rows))


def _check_known_stores(name: str, rows: pa.Table, stores: pa.Table) -> None:
    known = pc.is_in(rows["Store"], value_set=stores["Store"])
    row = pc.index(known, pa.scalar(False)).as_py()
    if row >= 0:
        raise DropRefusedError(
            f"{name} line {line_of(row):,}: Store {rows['Store'][row]} is not in stores.csv: "
            "add its type and size there"
        )


def _check_plausible_dates(name: str, rows: pa.Table) -> None:
    """A century mistyped in one row would make the feature tables' panel of weeks several times as wide."""
    first, last = (datetime.date(YEARS[0], 1, 1), datetime.date(YEARS[1], 12, 31))
    beyond = pc.or_(pc.less(rows["Date"], first), pc.greater(rows["Date"], last))
    if (row := pc.index(beyond, pa.scalar(True)).as_py()) >= 0:
        raise DropRefusedError(
            f"{name} line {line_of(row):,}: Date {rows['Date'][row]} cannot be: weeks lie in the years {YEARS[0]} to "
            f"{YEARS[1]}"
        )
    days = rows["Date"].cast(pa.int32()).to_numpy()
    median = int(np.median(days))
    far = np.flatnonzero(np.abs(days - median) > MAX_YEARS_FROM_MEDIAN * 365.25)
    if far.size:
        row = int(far[0])
        raise DropRefusedError(
            f"{name} line {line_of(row):,}: Date {rows['Date'][row]} is more than {MAX_YEARS_FROM_MEDIAN} years away "
            f"from the file's median week, {pa.scalar(median, pa.date32())}: correct it, or leave the row out"
        )


def _weekday(rows: pa.Table) -> int:
    """The weekday (Monday is 0) on which most weeks of the file are dated."""
    return int(np.bincount(_weekdays(rows), minlength=DAYS_PER_WEEK).argmax())


def _weekdays(rows: pa.Table) -> npt.NDArray[np.int64]:
    return pc.day_of_week(rows["Date"]).to_numpy()


def _check_weekly_grid(name: str, rows: pa.Table, weekday: int) -> None:
    off_grid = np.flatnonzero(_weekdays(rows) != weekday)
    if off_grid.size:
        row = int(off_grid[0])
        date = rows["Date"][row].as_py()
        raise DropRefusedError(
            f"{name} line {line_of(row):,}: Date {date} is a {_WEEKDAYS[date.weekday()]}, but the weeks of train.csv "
            f"are dated {_WEEKDAYS[weekday]}s: one row per week, dated on the same weekday"
        )


def _check_live_stores_are_described(train: pa.Table, features: pa.Table) -> None:
    """Without a row of its store that is not too old, a series that sells now could not be forecast."""
    last = pc.max(train["Date"]).as_py()
    coming = last + datetime.timedelta(days=DAYS_PER_WEEK)
    oldest = coming - datetime.timedelta(days=TTL_DAYS)
    live = train.filter(pc.greater(train["Date"], last - datetime.timedelta(weeks=LIVE_WEEKS)))
    known = pc.and_(pc.greater_equal(features["Date"], oldest), pc.less_equal(features["Date"], coming))
    described = features.filter(known)["Store"]
    row = pc.index(pc.is_in(live["Store"], value_set=described), pa.scalar(False)).as_py()
    if row >= 0:
        raise DropRefusedError(
            f"features.csv has no row for Store {live['Store'][row]} from {oldest} to {coming}, but train.csv has its "
            f"sales up to {last}: add at least one, or none of its series could be forecast"
        )


def _check_holidays_agree(train: pa.Table, features: pa.Table) -> None:
    flags = features.select(["Store", "Date", "IsHoliday"]).rename_columns(["Store", "Date", "expected"])
    rows = train.select(["Store", "Date", "IsHoliday"]).append_column("row", pa.array(np.arange(train.num_rows)))
    joined = rows.join(flags, ["Store", "Date"], join_type="inner")
    contradicting = joined.filter(pc.not_equal(joined["IsHoliday"], joined["expected"]))
    if contradicting.num_rows:
        row = pc.min(contradicting["row"]).as_py()
        ours = train["IsHoliday"][row].as_py()
        raise DropRefusedError(
            f"train.csv line {line_of(row):,}: IsHoliday {str(ours).upper()} for Store {train['Store'][row]}, "
            f"{train['Date'][row]}, but features.csv says {str(not ours).upper()}: correct one of them"
        )
