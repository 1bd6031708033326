"""Where a forecast starts from: a series' recent level, moved by what the season did a year ago.

All in the signed logarithm of dollars. Ratios of levels are differences there.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.frame import floats, week_numbers

Floats = np.ndarray[Any, np.dtype[np.float64]]

RECENT_LEVELS = ("sales_rolling_mean_4", "sales_rolling_mean_12", "sales_lag_52")
YEAR_AGO = "sales_lag_52"
YEAR_AGO_LEVEL = "sales_rolling_mean_4_lag_52"
LEVEL_COLUMNS = (*RECENT_LEVELS, YEAR_AGO_LEVEL)

_WEEKS_PER_YEAR = 52
_LARGEST_RATIO = 4.0


def signed_log(dollars: Floats) -> Floats:
    """sign(x) log(1 + |x|): a logarithm that returns and zero sales survive."""
    return np.sign(dollars) * np.log1p(np.abs(dollars))


def signed_exp(logarithm: Floats) -> Floats:
    """The inverse of `signed_log`."""
    return np.sign(logarithm) * np.expm1(np.abs(logarithm))


def first_present(*candidates: Floats) -> Floats:
    """Element by element, the first of `candidates` that is not NaN."""
    chosen = candidates[0]
    for candidate in candidates[1:]:
        chosen = np.where(np.isnan(chosen), candidate, chosen)
    return chosen


@dataclass(kw_only=True, slots=True, frozen=True)
class Anchor:
    """Per row, in signed-log dollars; NaN where a year ago is not known.

    level: the recent level, never NaN.
    own_ratio: what the series' own sales did against its level a year ago.
    group_ratio: what the group's series did on average in that week.
    start: the forecast before the model corrects it, never NaN.
    """

    level: Floats
    own_ratio: Floats
    group_ratio: Floats

    @property
    def start(self) -> Floats:
        # One series' ratio is noisy and the group's is not its own: half of each, or the one there is.
        both = (self.own_ratio + self.group_ratio) / 2
        return self.level + first_present(both, self.own_ratio, self.group_ratio, np.zeros_like(self.level))


@dataclass(kw_only=True, frozen=True)
class Levels:
    """What training knows about levels and seasons, for rows that know less of themselves.

    group_names: values of the group column, as text.
    group_medians: dollars, per group.
    overall_median: dollars.
    first_week: week number of the first column of `group_ratios`.
    group_ratios: per group and week, the mean over the group's series of signed-log(sales) - signed-log(level).
    """

    group_names: tuple[str, ...]
    group_medians: tuple[float, ...]
    overall_median: float
    first_week: int
    group_ratios: tuple[tuple[float | None, ...], ...]

    @classmethod
    def fit(cls, table: pa.Table, *, group: str, timestamp: str, label: str) -> Self:
        """Learn from training rows."""
        sales_N = floats(table, label)
        names = tuple(sorted(pc.unique(_text(table, group)).drop_null().to_pylist()))
        group_N = positions(table, group, names)
        medians = tuple(float(np.median(sales_N[group_N == g])) for g in range(len(names)))
        overall_median = float(np.median(sales_N))
        level_N = _recent_level(table, np.array([*medians, overall_median])[group_N])
        week_N = week_numbers(table, timestamp)
        first_week = int(week_N.min())
        ratio_N = np.clip(signed_log(sales_N) - level_N, -_LARGEST_RATIO, _LARGEST_RATIO)
        weight_N = np.where(np.isnan(floats(table, RECENT_LEVELS[0])) | (group_N < 0), 0.0, np.exp(np.abs(level_N) / 2))
        shape = (len(names), int(week_N.max()) - first_week + 1)
        total_GW, weight_GW = np.zeros(shape), np.zeros(shape)
        np.add.at(total_GW, (group_N, week_N - first_week), weight_N * ratio_N)
        np.add.at(weight_GW, (group_N, week_N - first_week), weight_N)
        return cls(
            group_names=names,
            group_medians=medians,
            overall_median=overall_median,
            first_week=first_week,
            group_ratios=tuple(
                tuple(round(t / w, 6) if w else None for t, w in zip(totals, weights, strict=True))
                for totals, weights in zip(total_GW.tolist(), weight_GW.tolist(), strict=True)
            ),
        )

    def anchor(self, table: pa.Table, *, group: str, timestamp: str) -> Anchor:
        """Where each row's forecast starts from; a row may belong to a group or week unknown in training."""
        group_N = positions(table, group, self.group_names)
        median_N = np.array([*self.group_medians, self.overall_median])[group_N]
        own_N = signed_log(floats(table, YEAR_AGO)) - signed_log(floats(table, YEAR_AGO_LEVEL))
        no_level_N = np.isnan(floats(table, RECENT_LEVELS[0]))
        group_ratio_N = self._group_ratio(group_N, week_numbers(table, timestamp) - _WEEKS_PER_YEAR)
        # Without a recent level the chain may already hold last year's sales: no ratio on top of those.
        return Anchor(
            level=_recent_level(table, median_N),
            own_ratio=np.where(no_level_N, np.nan, np.clip(own_N, -_LARGEST_RATIO, _LARGEST_RATIO)),
            group_ratio=np.where(no_level_N, np.nan, group_ratio_N),
        )

    @cached_property
    def _ratio_by_week(self) -> Floats:
        return np.array(self.group_ratios, dtype=np.float64)

    def _group_ratio(
        self, group_N: np.ndarray[Any, np.dtype[np.int64]], week_N: np.ndarray[Any, np.dtype[np.int64]]
    ) -> Floats:
        ratio_GW = self._ratio_by_week
        column_N = week_N - self.first_week
        known_N = (group_N >= 0) & (column_N >= 0) & (column_N < ratio_GW.shape[1])
        return np.where(known_N, ratio_GW[group_N, np.where(known_N, column_N, 0)], np.nan)


def _recent_level(table: pa.Table, median_N: Floats) -> Floats:
    return signed_log(first_present(*(floats(table, name) for name in RECENT_LEVELS), median_N))


@lru_cache(maxsize=32)
def _value_set(values: tuple[str, ...]) -> pa.Array:
    return pa.array(values, pa.string())


def _text(table: pa.Table, name: str) -> pa.ChunkedArray:
    return pc.cast(table[name], pa.string())


def positions(table: pa.Table, name: str, values: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Each row's position in `values`, as text; -1, which in numpy is the last element, where it has none."""
    found = pc.index_in(_text(table, name), value_set=_value_set(values))
    return np.asarray(found.fill_null(-1).to_numpy(), dtype=np.int64)
