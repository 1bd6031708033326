"""Reads a published training frame, and splits it by calendar week."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainer.errors import FrameError
from trainer.spec import TrainSpec

COMPLETION_MARKER = "_SUCCESS"
MIN_TRAINING_WEEKS = 8
_MICROSECONDS_PER_WEEK = 7 * 24 * 3600 * 10**6
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(kw_only=True, slots=True, frozen=True)
class Frame:
    """A training frame in memory, with the content hash its publisher gave it."""

    table: pa.Table
    content_hash: str


@dataclass(kw_only=True, slots=True, frozen=True)
class Manifest:
    """What a published frame says of itself. `chunks` are the files in order, `sha256` theirs, `columns` the names."""

    content_hash: str
    rows: int
    columns: tuple[str, ...]
    chunks: tuple[Path, ...]
    sha256: tuple[str, ...]


def read_manifest(path: Path | str) -> Manifest:
    """Read the manifest of the frame published at `path`.

    Raises:
        FrameError: the frame has no `_SUCCESS`, or its manifest is missing or broken.
    """
    root = Path(path)
    if not (root / COMPLETION_MARKER).is_file():
        raise FrameError(f"frame {root} is not complete: it has no {COMPLETION_MARKER} file")
    file = root / "manifest.json"
    try:
        fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return Manifest(
            content_hash=fields["content_hash"],
            rows=fields["rows"],
            columns=tuple(column["name"] for column in fields["columns"]),
            chunks=tuple(root / chunk["file"] for chunk in fields["chunks"]),
            sha256=tuple(chunk["sha256"] for chunk in fields["chunks"]),
        )
    except OSError as error:
        raise FrameError(f"manifest {file} cannot be read: {error.strerror}: publish the frame again") from error
    except (ValueError, KeyError, TypeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise FrameError(f"manifest {file} is broken ({cause}): publish the frame again") from error


def read_frame(path: Path | str) -> Frame:
    """Read the frame published at `path`.

    Raises:
        FrameError: the frame has no `_SUCCESS`, or a chunk is missing or is not what the manifest says it is.
    """
    manifest = read_manifest(path)
    table = pa.concat_tables(map(read_chunk, manifest.chunks, manifest.sha256))
    if table.num_rows != manifest.rows:
        raise FrameError(f"frame {path} has {table.num_rows} rows; its manifest says {manifest.rows}")
    return Frame(table=table, content_hash=manifest.content_hash)


def read_chunk(path: Path, expected: str, columns: list[str] | None = None) -> pa.Table:
    """Read a chunk whose content is known by its hash; some of its columns, or all.

    Raises:
        FrameError: it is missing or corrupt.
    """
    if not path.is_file():
        raise FrameError(f"frame chunk {path} is missing")
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise FrameError(f"frame chunk {path} is corrupt: sha256 is {actual}, the manifest says {expected}")
    # Not pq.read_table: its threads may still be starting when a refused spec ends the process, which then aborts.
    return pq.ParquetFile(pa.BufferReader(content)).read(columns=columns)


def require_columns(table: pa.Table, names: Iterable[str]) -> None:
    """Refuse a table without all of `names`.

    Raises:
        FrameError: names the missing columns.
    """
    if missing := sorted(set(names) - set(table.column_names)):
        raise FrameError(f"the table lacks columns: {', '.join(missing)}")


def floats(table: pa.Table, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A numeric or boolean column as float64; null becomes NaN.

    Raises:
        FrameError: it holds something else.
    """
    column = table[name]
    if column.type != pa.float64():
        try:
            column = column.cast(pa.float64())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise FrameError(f"column {name} is of type {column.type} and does not hold numbers alone") from error
    return np.asarray(column.to_numpy(), dtype=np.float64)


def week_numbers(table: pa.Table, timestamp: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Each row's week, counted from 1970-01-01; a chain's weekly dates lie 1 apart.

    Raises:
        FrameError: as `first_and_last`.
    """
    column = _times(table, timestamp).cast(pa.int64())
    return np.asarray(column.to_numpy() // _MICROSECONDS_PER_WEEK, dtype=np.int64)


def first_and_last(table: pa.Table, timestamp: str) -> tuple[datetime, datetime]:
    """The ends of a column of dates or timestamps, in UTC; those without a time zone are taken for UTC.

    Raises:
        FrameError: it holds something else, or a time is missing.
    """
    ends = pc.min_max(_times(table, timestamp)).as_py()
    return ends["min"], ends["max"]


def week_span(table: pa.Table, timestamp: str) -> tuple[str, str]:
    """The first and the last week's date, as YYYY-MM-DD. Raises as `first_and_last`."""
    first, last = first_and_last(table, timestamp)
    return f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}"


def _times(table: pa.Table, timestamp: str) -> pa.ChunkedArray:
    column = table[timestamp]
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        raise FrameError(f"column {timestamp} is of type {column.type}; allowed: a date or a timestamp")
    if column.null_count:
        raise FrameError(f"column {timestamp} is missing in {column.null_count} of the rows: each needs its week")
    return pc.cast(column, pa.timestamp("us", "UTC"))


Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(kw_only=True, slots=True, frozen=True)
class Split:
    """Weeks, as `week_numbers`: up to `last_trained` is trained, from `first_validated` on is validated."""

    last_trained: int
    first_validated: int

    @classmethod
    def of(cls, first: datetime, last: datetime, spec: TrainSpec) -> Self:
        """The split of a frame from its first to its last timestamp, as `first_and_last`.

        The last `val_size` calendar weeks are validated, or all after `cutoff_date` and the gap; the `gap_weeks` before
        them are neither.

        Raises:
            FrameError: the frame is too short for that split.
        """
        first_week, last_week = (_week(timestamp) for timestamp in (first, last))
        present = last_week - first_week + 1
        if spec.cutoff_date:
            end_of_day = datetime.fromisoformat(spec.cutoff_date).replace(tzinfo=UTC) + timedelta(
                days=1, microseconds=-1
            )
            last_trained = first_week + (end_of_day - first) // timedelta(weeks=1)
            if last_trained - first_week + 1 < MIN_TRAINING_WEEKS or last_trained + spec.gap_weeks >= last_week:
                raise FrameError(
                    f"the frame spans {first:%Y-%m-%d} to {last:%Y-%m-%d}; cutoff_date {spec.cutoff_date} has to leave "
                    f"{MIN_TRAINING_WEEKS} weeks before it and more than gap_weeks {spec.gap_weeks} after it"
                )
            return cls(last_trained=last_trained, first_validated=last_trained + spec.gap_weeks + 1)
        needed = MIN_TRAINING_WEEKS + spec.gap_weeks + spec.val_size
        if present < needed:
            raise _too_short(present, needed, spec)
        first_validated = last_week - spec.val_size + 1
        return cls(last_trained=first_validated - spec.gap_weeks - 1, first_validated=first_validated)

    def masks(self, week_N: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[Mask, Mask]:
        """Which rows are trained and which are validated."""
        return week_N <= self.last_trained, week_N >= self.first_validated


def split_masks(table: pa.Table, spec: TrainSpec) -> tuple[Mask, Mask]:
    """Which rows may be trained on and which are validated; as `Split.of`.

    Raises:
        FrameError: the table is too short for that split, or as `first_and_last`.
    """
    require_columns(table, [spec.timestamp])
    if not table.num_rows:
        raise _too_short(0, MIN_TRAINING_WEEKS + spec.gap_weeks + spec.val_size, spec)
    return Split.of(*first_and_last(table, spec.timestamp), spec).masks(week_numbers(table, spec.timestamp))


def evenly_spaced(first: int, last: int, total: int, wanted: int) -> Mask:
    """Which of the rows from `first` to below `last` are among the `wanted` that lie evenly spaced over `total`.

    0 wants all. However the rows are cut into pieces, the same are chosen.
    """
    if wanted in (0, total) or wanted > total:
        return np.ones(last - first, dtype=np.bool_)
    chosen_n = np.arange(first, last + 1, dtype=np.int64) * wanted // total
    return np.asarray(np.diff(chosen_n) > 0)


def _week(timestamp: datetime) -> int:
    return int((timestamp - _EPOCH) // timedelta(weeks=1))


def _too_short(present: int, needed: int, spec: TrainSpec) -> FrameError:
    return FrameError(
        f"the frame spans {present} weeks; val_size {spec.val_size} and gap_weeks {spec.gap_weeks} "
        f"with {MIN_TRAINING_WEEKS} weeks of training need {needed}"
    )
