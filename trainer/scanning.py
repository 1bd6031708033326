"""What a streamed training has to know of its frame beforehand, in passes that hold one chunk in memory at a time."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from trainer.baselines import BASELINE_COLUMNS
from trainer.checks import require_trainable
from trainer.errors import FrameError
from trainer.frame import Manifest, Split, evenly_spaced, first_and_last, read_chunk, week_numbers
from trainer.level import LEVEL_COLUMNS
from trainer.spec import SEQUENCE_MODELS, TrainSpec

_FITTED_ROWS = 1_000_000


@dataclass(kw_only=True, slots=True, frozen=True)
class Scan:
    """A frame's split, and the rows that stay in memory.

    columns: those that are read.
    training_rows: of each chunk.
    training_weeks: the first and the last one's date, as YYYY-MM-DD.
    validation: all validation rows.
    gap: all rows between training and validation.
    fitted: a million training rows at most, evenly spaced, to fit an encoder on.
    labels: series, timestamp and label of all rows, for a model that reads sales by week; else None.
    """

    columns: tuple[str, ...]
    split: Split
    training_rows: tuple[int, ...]
    training_weeks: tuple[str, str]
    validation: pa.Table
    gap: pa.Table
    fitted: pa.Table
    labels: pa.Table | None


def scan(manifest: Manifest, spec: TrainSpec) -> Scan:
    """Look through the frame; the content of every chunk is checked.

    Raises:
        FrameError: a chunk is corrupt, a column is missing, the frame is too short for the split, or as
            `require_trainable`.
    """
    columns = _columns(manifest, spec)
    timestamps: list[datetime] = []
    weeks = []
    for chunk, sha256 in zip(manifest.chunks, manifest.sha256, strict=True):
        table = read_chunk(chunk, sha256, [spec.timestamp])
        timestamps += first_and_last(table, spec.timestamp)
        weeks.append(Counter(week_numbers(table, spec.timestamp).tolist()))
    first = min(timestamps)
    split = Split.of(first, max(timestamps), spec)
    trained = [{week: rows for week, rows in each.items() if week <= split.last_trained} for each in weeks]
    training_rows = tuple(sum(each.values()) for each in trained)
    trained_weeks = set().union(*trained)
    last = first + timedelta(weeks=max(trained_weeks) - min(trained_weeks))
    return Scan(
        columns=columns,
        split=split,
        training_rows=training_rows,
        training_weeks=(f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}"),
        **_kept_rows(manifest, spec, columns, split, training_rows),
    )


def _columns(manifest: Manifest, spec: TrainSpec) -> tuple[str, ...]:
    names = [spec.timestamp, spec.group, spec.label, spec.holiday, *spec.series]
    names += [*LEVEL_COLUMNS, *BASELINE_COLUMNS, *spec.numeric_features, *spec.categorical_features]
    if missing := sorted(set(names) - set(manifest.columns)):
        raise FrameError(f"the table lacks columns: {', '.join(missing)}")
    return tuple(dict.fromkeys(names))


def _kept_rows(
    manifest: Manifest, spec: TrainSpec, columns: tuple[str, ...], split: Split, training_rows: tuple[int, ...]
) -> dict[str, Any]:
    total, offset, rows_before = sum(training_rows), 0, 0
    wanted = min(_FITTED_ROWS, spec.sample_size or total)
    validation, gap, fitted, labels = [], [], [], []
    for chunk, sha256, rows in zip(manifest.chunks, manifest.sha256, training_rows, strict=True):
        table = read_chunk(chunk, sha256, list(columns))
        require_trainable(table, spec, rows_before)
        rows_before += table.num_rows
        training_N, validation_N = split.masks(week_numbers(table, spec.timestamp))
        validation.append(table.filter(pa.array(validation_N)))
        gap.append(table.filter(pa.array(~(training_N | validation_N))))
        index_N = np.flatnonzero(training_N)[evenly_spaced(offset, offset + rows, total, wanted)]
        fitted.append(table.take(pa.array(index_N)))
        if spec.model_type in SEQUENCE_MODELS:
            labels.append(table.select([*spec.series, spec.timestamp, spec.label]))
        offset += rows
    return {
        "validation": pa.concat_tables(validation),
        "gap": pa.concat_tables(gap),
        "fitted": pa.concat_tables(fitted),
        "labels": pa.concat_tables(labels) if labels else None,
    }
