"""Reads a published training frame, and splits it by calendar week."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainer.errors import FrameError
from trainer.spec import TrainSpec

MIN_TRAINING_WEEKS = 8
_MICROSECONDS_PER_WEEK = 7 * 24 * 3600 * 10**6


@dataclass(kw_only=True, slots=True, frozen=True)
class Frame:
    """A training frame in memory, with the content hash its publisher gave it."""

    table: pa.Table
    content_hash: str


def read_frame(path: Path | str) -> Frame:
    """Read the frame published at `path`.

    Raises:
        FrameError: the frame has no `_SUCCESS`, or a chunk is missing or is not what the manifest says it is.
    """
    root = Path(path)
    if not (root / "_SUCCESS").is_file():
        raise FrameError(f"frame {root} is not complete: it has no _SUCCESS file")
    manifest: dict[str, Any] = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    table = pa.concat_tables([_read_chunk(root / chunk["file"], chunk["sha256"]) for chunk in manifest["chunks"]])
    if table.num_rows != manifest["rows"]:
        raise FrameError(f"frame {root} has {table.num_rows} rows; its manifest says {manifest['rows']}")
    return Frame(table=table, content_hash=manifest["content_hash"])


def _read_chunk(path: Path, expected: str) -> pa.Table:
    if not path.is_file():
        raise FrameError(f"frame chunk {path} is missing")
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise FrameError(f"frame chunk {path} is corrupt: sha256 is {actual}, the manifest says {expected}")
    # Not pq.read_table: its threads may still be starting when a refused spec ends the process, which then aborts.
    return pq.ParquetFile(pa.BufferReader(content)).read()


def require_columns(table: pa.Table, names: Iterable[str]) -> None:
    """Refuse a table without all of `names`.

    Raises:
        FrameError: names the missing columns.
    """
    if missing := sorted(set(names) - set(table.column_names)):
        raise FrameError(f"the table lacks columns: {', '.join(missing)}")


def floats(table: pa.Table, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A numeric or boolean column as float64; null becomes NaN."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)


def week_numbers(table: pa.Table, timestamp: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Each row's week, counted from 1970-01-01; a chain's weekly dates lie 1 apart."""
    column = pc.cast(table[timestamp], pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.asarray(column.to_numpy() // _MICROSECONDS_PER_WEEK, dtype=np.int64)


def week_span(table: pa.Table, timestamp: str) -> tuple[str, str]:
    """The first and the last week's date, as YYYY-MM-DD."""
    ends = pc.min_max(table[timestamp]).as_py()
    return f"{ends['min']:%Y-%m-%d}", f"{ends['max']:%Y-%m-%d}"


def split_masks(
    table: pa.Table, spec: TrainSpec
) -> tuple[np.ndarray[Any, np.dtype[np.bool_]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Which rows are trained and which are validated.

    The last `val_size` calendar weeks are validated; the `gap_weeks` before them are neither.

    Raises:
        FrameError: the table is too short for that split.
    """
    require_columns(table, [spec.timestamp])
    needed = MIN_TRAINING_WEEKS + spec.gap_weeks + spec.val_size
    weeks = week_numbers(table, spec.timestamp)
    present = int(weeks.max() - weeks.min()) + 1 if len(weeks) else 0
    if present < needed:
        raise FrameError(
            f"the frame spans {present} weeks; val_size {spec.val_size} and gap_weeks {spec.gap_weeks} "
            f"with {MIN_TRAINING_WEEKS} weeks of training need {needed}"
        )
    first_validated = weeks.max() - spec.val_size + 1
    return weeks < first_validated - spec.gap_weeks, weeks >= first_validated
