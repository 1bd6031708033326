"""Turns rows of a training frame into what the model reads. Fitted on training rows only."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.frame import floats, require_columns, week_numbers
from trainer.holidays import easter_signals
from trainer.level import LEVEL_COLUMNS, Anchor, Floats, Levels, positions, signed_log
from trainer.spec import SEQUENCE_MODELS, TrainSpec
from trainer.windows import WINDOW_COLUMN

SALES_PREFIX = "sales_"
CYCLES = {"week_of_year": 365.25 / 7, "month": 12.0, "quarter": 4.0}

_CLIP_QUANTILE = 0.01
_CLIP_DEVIATIONS = 2.5
_MIN_SHARE = 0.01
_MIN_DRIVER_WEEKS = 52


@dataclass(kw_only=True, slots=True, frozen=True)
class Input:
    """One number the model reads: (clip(x, low, high) - mean) / std, and 0 where missing.

    flags_missing: whether a second number says where it is missing.
    """

    name: str
    low: float
    high: float
    mean: float
    std: float
    flags_missing: bool


@dataclass(kw_only=True, slots=True, frozen=True)
class Encoded:
    """Rows as the model reads them.

    numeric: float32, within a few standard deviations of 0.
    codes: int64 per category, 0 = unknown.
    start: float64, signed-log dollars from which the model's correction counts.
    level: float64, signed-log dollars of the recent level.
    week: int64, the number of the row's week.
    """

    numeric: np.ndarray[Any, np.dtype[np.float32]]
    codes: np.ndarray[Any, np.dtype[np.int64]]
    start: Floats
    level: Floats
    week: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(kw_only=True, slots=True, frozen=True)
class _Scale:
    """The fitted inputs side by side, and where their values and flags of missing ones go."""

    low: Floats
    high: Floats
    mean: Floats
    std: Floats
    value_columns: np.ndarray[Any, np.dtype[np.int64]]
    flag_columns: np.ndarray[Any, np.dtype[np.int64]]
    flagged: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(kw_only=True, frozen=True)
class Encoder:
    """Fitted scalers, vocabularies and levels.

    inputs: those that showed enough in training to be learned from; a column that is constant, nearly always missing,
        or in motion for less than a year is not among them and cannot move a forecast.
    vocabularies: per categorical feature, its training values as text.
    seasons_seen: per cyclic feature, the values that training rows with a year-ago level had. In others there was no
        last year to correct, so what the model learned there would be added on top of last year's season.
    reads_windows: whether the model also reads the sales of the year before, week by week.
    """

    timestamp: str
    group: str
    numeric_features: tuple[str, ...]
    categorical_features: tuple[str, ...]
    inputs: tuple[Input, ...]
    vocabularies: tuple[tuple[str, ...], ...]
    seasons_seen: dict[str, tuple[float, ...]]
    levels: Levels
    reads_windows: bool

    @classmethod
    def fit(cls, table: pa.Table, spec: TrainSpec) -> Self:
        """Learn from the training rows in `table`.

        Raises:
            FrameError: a column the spec names is missing.
        """
        require_columns(table, [*_columns(spec), spec.label])
        levels = Levels.fit(table, group=spec.group, timestamp=spec.timestamp, label=spec.label)
        anchor = levels.anchor(table, group=spec.group, timestamp=spec.timestamp)
        anchored_N = ~np.isnan(anchor.own_ratio)
        encoder = cls(
            timestamp=spec.timestamp,
            group=spec.group,
            numeric_features=spec.numeric_features,
            categorical_features=spec.categorical_features,
            inputs=(),
            vocabularies=tuple(
                tuple(sorted(pc.unique(table[name].cast(pa.string())).drop_null().to_pylist()))
                for name in spec.categorical_features
            ),
            seasons_seen={
                name: tuple(np.unique(floats(table, name)[anchored_N]).tolist())
                for name in spec.numeric_features
                if name in CYCLES
            },
            levels=levels,
            reads_windows=spec.model_type in SEQUENCE_MODELS,
        )
        week_N = week_numbers(table, spec.timestamp)
        fitted = (_fit_input(name, value_N, week_N) for name, value_N in encoder._signals(table, anchor))
        return dataclasses.replace(encoder, inputs=tuple(each for each in fitted if each is not None))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns a table needs to be forecast."""
        return (*_columns(self), *((WINDOW_COLUMN,) if self.reads_windows else ()))

    @cached_property
    def _scale(self) -> _Scale:
        flags_I = np.array([each.flags_missing for each in self.inputs], dtype=np.bool_)
        value_columns = np.arange(len(self.inputs)) + np.cumsum(flags_I) - flags_I
        return _Scale(
            low=np.array([each.low for each in self.inputs]),
            high=np.array([each.high for each in self.inputs]),
            mean=np.array([each.mean for each in self.inputs]),
            std=np.array([each.std for each in self.inputs]),
            value_columns=value_columns,
            flag_columns=value_columns[flags_I] + 1,
            flagged=np.flatnonzero(flags_I),
        )

    @property
    def feature_hash(self) -> str:
        """sha256 over the features, and the inputs made from them, in the order in which the model reads them."""
        order = [self.numeric_features, self.categorical_features, [each.name for each in self.inputs]]
        return hashlib.sha256(json.dumps(order).encode()).hexdigest()

    @property
    def width(self) -> int:
        """F, the number of numeric inputs."""
        return len(self.inputs) + sum(each.flags_missing for each in self.inputs)

    def encode(self, table: pa.Table) -> Encoded:
        """Encode rows; the label is not read and need not be there.

        Raises:
            FrameError: a column is missing.
        """
        require_columns(table, _columns(self))
        anchor = self.levels.anchor(table, group=self.group, timestamp=self.timestamp)
        offered = dict(self._signals(table, anchor))
        value_NI = np.empty((table.num_rows, len(self.inputs)), dtype=np.float64)
        for column, each in enumerate(self.inputs):
            value_NI[:, column] = offered[each.name]
        missing_NI = np.isnan(value_NI)
        scale = self._scale
        np.clip(value_NI, scale.low, scale.high, out=value_NI)
        value_NI -= scale.mean
        value_NI /= scale.std
        value_NI[missing_NI] = 0.0
        numeric_NF = np.empty((table.num_rows, self.width), dtype=np.float32)
        numeric_NF[:, scale.value_columns] = value_NI
        numeric_NF[:, scale.flag_columns] = missing_NI[:, scale.flagged]
        codes = [
            positions(table, name, values) + 1
            for name, values in zip(self.categorical_features, self.vocabularies, strict=True)
        ]
        return Encoded(
            numeric=numeric_NF,
            codes=np.stack(codes, axis=1) if codes else np.empty((table.num_rows, 0), dtype=np.int64),
            start=anchor.start,
            level=anchor.level,
            week=week_numbers(table, self.timestamp),
        )

    def _signals(self, table: pa.Table, anchor: Anchor) -> Iterator[tuple[str, Floats]]:
        """Every number a row offers, by name, NaN where missing."""
        yield "level", anchor.level
        yield "group_ratio", anchor.group_ratio
        yield "own_ratio", anchor.own_ratio - np.nan_to_num(anchor.group_ratio)
        yield from easter_signals(table, self.timestamp).items()
        for name in self.numeric_features:
            value_N = floats(table, name)
            if name.startswith(SALES_PREFIX):
                yield name, signed_log(value_N) - anchor.level
            elif name in CYCLES:
                angle_N = 2 * np.pi * value_N / CYCLES[name]
                seen_N = np.isin(value_N, self.seasons_seen[name])
                yield f"{name}_sin", np.where(seen_N, np.sin(angle_N), 0.0)
                yield f"{name}_cos", np.where(seen_N, np.cos(angle_N), 0.0)
            else:
                yield name, value_N

    def to_dict(self) -> dict[str, Any]:
        """The encoder as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of `to_dict`, also after a trip through JSON."""
        levels = {name: _as_tuple(value) for name, value in fields["levels"].items()}
        return cls(
            **{name: _as_tuple(fields[name]) for name in ("timestamp", "group", "vocabularies", "reads_windows")},
            numeric_features=_as_tuple(fields["numeric_features"]),
            categorical_features=_as_tuple(fields["categorical_features"]),
            inputs=tuple(Input(**each) for each in fields["inputs"]),
            seasons_seen={name: _as_tuple(values) for name, values in fields["seasons_seen"].items()},
            levels=Levels(**levels),
        )


def _columns(names: TrainSpec | Encoder) -> tuple[str, ...]:
    return (names.timestamp, names.group, *LEVEL_COLUMNS, *names.numeric_features, *names.categorical_features)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(each) for each in value) if isinstance(value, list) else value


def _fit_input(name: str, value_N: Floats, week_N: np.ndarray[Any, np.dtype[np.int64]]) -> Input | None:
    """How to scale one signal, or None where training rows show too little of it."""
    missing_N = np.isnan(value_N)
    present_n = value_N[~missing_N]
    if not len(present_n):
        return None
    moves_N = ~missing_N & (value_N != np.median(present_n))
    if moves_N.mean() < _MIN_SHARE:
        return None
    # A driver that was in motion for less than a year cannot be told from the season it moved in.
    derived = name in ("level", "group_ratio", "own_ratio") or name.startswith(SALES_PREFIX)
    if not derived and np.ptp(week_N[moves_N]) < _MIN_DRIVER_WEEKS:
        return None
    low, high = np.quantile(present_n, [_CLIP_QUANTILE, 1 - _CLIP_QUANTILE])
    mean, std = float(present_n.mean()), float(present_n.std())
    return Input(
        name=name,
        low=max(float(low), mean - _CLIP_DEVIATIONS * std),
        high=min(float(high), mean + _CLIP_DEVIATIONS * std),
        mean=mean,
        std=std,
        flags_missing=_MIN_SHARE <= float(missing_N.mean()) <= 1 - _MIN_SHARE,
    )
