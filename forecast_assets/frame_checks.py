"""Checks of a training frame as a whole, beyond what a schema can say of its rows.

What is impossible fails as an error: the frame is then not published. What is only unusual fails as a warning.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import LABEL, TIMESTAMP

RECENT_WEEKS = 13
MIN_SHARE_OF_USUAL_ROWS = 0.5
MAX_STABILITY_INDEX = 0.25
SEASON_WEEKS = 3
_BINS = 10
_WEEKS_PER_YEAR = 52
_MICROSECONDS_PER_WEEK = 7 * 24 * 3600 * 10**6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: where, and what."""

    place: str
    problem: str


def incomplete_weeks(frame: pa.Table) -> list[Finding]:
    """Calendar weeks without a row, and weeks with less than half the rows of the weeks before them. Unusual."""
    weeks = _weeks(frame)
    first = int(weeks.min())
    counts = np.bincount(weeks - first)
    findings = []
    for week, count in enumerate(counts):
        usual = float(np.median(counts[max(0, week - RECENT_WEEKS) : week])) if week else 0.0
        if count < MIN_SHARE_OF_USUAL_ROWS * usual:
            findings.append(Finding(_date(first + week, frame), f"{count:,} rows, usually {usual:,.0f}"))
    return findings


def leaks(frame: pa.Table) -> list[Finding]:
    """Lags that are not the label of exactly that many weeks before. Impossible: they would know what they may not.

    Every ``sales_lag_N`` is looked up again among the frame's own labels; it must be missing where no such row exists.
    """
    panel, series, week = _label_panel(frame)
    findings = []
    for name in frame.column_names:
        if not name.startswith("sales_lag_"):
            continue
        weeks_before = int(name.removeprefix("sales_lag_"))
        column = week - weeks_before
        expected = np.where(column >= 0, panel[series, np.maximum(column, 0)], np.nan)
        actual = _floats(frame, name)
        wrong = np.flatnonzero(~((actual == expected) | (np.isnan(actual) & np.isnan(expected))))
        if wrong.size:
            row = int(wrong[0])
            place = f"store {frame['store'][row]}, dept {frame['dept'][row]}, {frame[TIMESTAMP][row].as_py():%Y-%m-%d}"
            findings.append(
                Finding(
                    f"{name}: {wrong.size:,} rows, first {place}",
                    f"is {actual[row]:,.2f}, sales were {expected[row]:,.2f}",
                )
            )
    return findings


def drifted_columns(frame: pa.Table, previous: pa.Table) -> list[Finding]:
    """Numeric columns whose distribution has moved away from the previous frame's. Unusual.

    Measured by the population stability index over the previous frame's deciles, a missing value being a bin of its
    own; 0.25 is the customary bound for a shift that wants a look (Siddiqi, Credit Risk Scorecards, 2006).
    """
    findings = []
    for name in frame.column_names:
        if name in previous.column_names and _is_number(frame.schema.field(name).type):
            index = stability_index(_floats(previous, name), _floats(frame, name))
            if index > MAX_STABILITY_INDEX:
                findings.append(Finding(name, f"population stability index {index:.2f}"))
    return findings


def seasonal_neighbours(frame: pa.Table, week_of_year: int) -> pa.Table:
    """The frame's rows of ISO weeks at most ``SEASON_WEEKS`` from ``week_of_year``, in any year."""
    distance = np.abs(frame["week_of_year"].to_numpy() - week_of_year)
    return frame.filter(pa.array(np.minimum(distance, _WEEKS_PER_YEAR - distance) <= SEASON_WEEKS))


def stability_index(expected: Floats, actual: Floats) -> float:
    """Sum over bins of (a - e) ln(a / e), with the shares e and a of the expected and the actual values."""
    present = expected[~np.isnan(expected)]
    edges = np.unique(np.quantile(present, np.linspace(0, 1, _BINS + 1)[1:-1])) if present.size else np.array([])
    shares = [_shares(values, edges) for values in (expected, actual)]
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def _shares(values: Floats, edges: Floats) -> Floats:
    missing = np.isnan(values)
    bins = np.where(missing, len(edges) + 1, np.searchsorted(edges, values, side="right"))
    counts = np.bincount(bins, minlength=len(edges) + 2)
    # An empty bin would make the index infinite: it counts as one ten-thousandth.
    return np.maximum(counts / max(values.size, 1), 1e-4)


def _label_panel(frame: pa.Table) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Labels [series, week], NaN where there is no row, and the two positions of each row."""
    week = _weeks(frame)
    week = week - week.min()
    keys = np.stack([frame[key].to_numpy() for key in ("store", "dept")])
    _, series = np.unique(keys, axis=1, return_inverse=True)
    panel = np.full((int(series.max()) + 1, int(week.max()) + 1), np.nan)
    panel[series, week] = _floats(frame, LABEL)
    return panel, series, week


def _weeks(frame: pa.Table) -> npt.NDArray[np.int64]:
    return frame[TIMESTAMP].cast(pa.int64()).to_numpy() // _MICROSECONDS_PER_WEEK


def _date(week: int, frame: pa.Table) -> str:
    weekday = frame[TIMESTAMP][0].cast(pa.int64()).as_py() % _MICROSECONDS_PER_WEEK
    moment = pa.scalar(week * _MICROSECONDS_PER_WEEK + weekday, pa.timestamp("us", "UTC")).as_py()
    return f"{moment:%Y-%m-%d}"


def _floats(frame: pa.Table, name: str) -> Floats:
    return pc.cast(frame[name], pa.float64()).to_numpy()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))
