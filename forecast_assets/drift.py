"""Whether columns are distributed as they were: the population stability index, against a bound for its sample."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from feature_repo.features import TIMESTAMP
from forecast_assets.frame_checks import floats, week_numbers

SEASON_WEEKS = 3
MAX_SHIFT = 0.25
_DEVIATIONS = 3.0
_LARGE_SAMPLE = 10_000  # of which chance adds next to nothing, however few numbers differ
_BINS = 10
_WEEKS_PER_YEAR = 52
_WEEKS_LOOKED_BACK = 56  # by the mean of 4 weeks, a year ago

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stability:
    """A column's population stability index, and the most that is not taken for a shift."""

    column: str
    index: float
    bound: float

    @property
    def drifted(self) -> bool:
        return self.index > self.bound

    @property
    def sentence(self) -> str:
        """How it stands, for people."""
        verdict = "has moved" if self.drifted else "has not moved"
        return f"{self.column} {verdict}: population stability index {self.index:.2f}, bound {self.bound:.2f}"


def stability(frame: pa.Table, reference: pa.Table) -> list[Stability]:
    """The stability of each numeric column of ``frame`` that ``reference`` has too, the least stable first.

    ``reference`` says with its timestamps which rows are of the same week.
    """
    columns = [
        Stability(
            name,
            *stability_index(
                floats(reference, name), floats(frame, name), _own_share(reference, name, sample=frame.num_rows)
            ),
        )
        for name in frame.column_names
        if name in reference.column_names and _is_number(frame.schema.field(name).type)
    ]
    return sorted(columns, key=lambda column: column.index - column.bound, reverse=True)


def stability_index(expected: Floats, actual: Floats, own_share: float = 1.0) -> tuple[float, float]:
    """The population stability index, sum over bins of (a - e) ln(a / e), and a bound for it.

    Bins are the expected values' deciles, and one for missing values; e and a are the expected and the actual values'
    shares in them, half a value being added to each bin so that none is empty.

    The bound is 0.25, the customary one for a shift that wants a look (Siddiqi, Credit Risk Scorecards, 2006), and
    what chance adds: for N and M values of one distribution in B bins the index is distributed as (1/N + 1/M) times
    chi-squared with B - 1 degrees of freedom (Yurdakul, Statistical Properties of Population Stability Index, Western
    Michigan University, 2018). Its mean, (B - 1)(1/N + 1/M), and three standard deviations are allowed for.

    Args:
        own_share: the share of the values that are samples of their own, of which alone N and M are numbers.
    """
    present = expected[~np.isnan(expected)]
    edges = np.unique(np.quantile(present, np.linspace(0, 1, _BINS + 1)[1:-1])) if present.size else np.array([])
    counts = np.stack([_counts(values, edges) for values in (expected, actual)])
    counts = counts[:, counts.any(axis=0)]
    expected_share, actual_share = (counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True)
    index = float(((actual_share - expected_share) * np.log(actual_share / expected_share)).sum())
    freedom = counts.shape[1] - 1
    chance = (1 / max(expected.size, 1) + 1 / max(actual.size, 1)) / own_share
    return index, MAX_SHIFT + chance * (freedom + _DEVIATIONS * float(np.sqrt(2 * freedom)))


def same_season(frame: pa.Table, week_of_year: int) -> pa.Table:
    """What a week's rows can be compared with: the frame's of ISO weeks at most ``SEASON_WEEKS`` away, in any year.

    Weeks of the first year, in which nothing was known of the year before, are left out if there are others; so are
    columns that are the same for all rows of every week, as the calendar's are: one week has no distribution of them.
    """
    distance = np.abs(frame["week_of_year"].to_numpy() - week_of_year)
    near = np.minimum(distance, _WEEKS_PER_YEAR - distance) <= SEASON_WEEKS
    weeks = week_numbers(frame)
    later = near & (weeks - weeks.min() >= _WEEKS_LOOKED_BACK)
    rows = frame.filter(pa.array(later if later.any() else near))
    there = _distinct(rows, TIMESTAMP)
    return rows.select(
        [name for name in rows.column_names if name == TIMESTAMP or _distinct(rows, TIMESTAMP, name) > there]
    )


def _own_share(reference: pa.Table, name: str, *, sample: int) -> float:
    """Of numbers with fractions, the share that differ within a week: the others are those of a store or region."""
    values = floats(reference, name)
    values = values[~np.isnan(values)]
    if sample > _LARGE_SAMPLE or not values.size or (values % 1 == 0).all():
        return 1.0
    return _distinct(reference, TIMESTAMP, name) / reference.num_rows


def _distinct(rows: pa.Table, *names: str) -> int:
    return int(rows.select(names).group_by(names).aggregate([]).num_rows)


def _counts(values: Floats, edges: Floats) -> npt.NDArray[np.int64]:
    bins = np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values, side="right"))
    return np.bincount(bins, minlength=len(edges) + 2)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))
