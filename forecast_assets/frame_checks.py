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
_MICROSECONDS_PER_WEEK = 7 * 24 * 3600 * 10**6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: where, and what."""

    place: str
    problem: str


def incomplete_weeks(frame: pa.Table) -> list[Finding]:
    """Calendar weeks without a row, and weeks with less than half the rows of the weeks before them. Unusual."""
    weeks = week_numbers(frame)
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
        actual = floats(frame, name)
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


def _label_panel(frame: pa.Table) -> tuple[Floats, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Labels [series, week], NaN where there is no row, and the two positions of each row."""
    week = week_numbers(frame)
    week = week - week.min()
    keys = np.stack([frame[key].to_numpy() for key in ("store", "dept")])
    _, series = np.unique(keys, axis=1, return_inverse=True)
    panel = np.full((int(series.max()) + 1, int(week.max()) + 1), np.nan)
    panel[series, week] = floats(frame, LABEL)
    return panel, series, week


def week_numbers(frame: pa.Table) -> npt.NDArray[np.int64]:
    """The calendar week of each row, as a number that is one more for the next week."""
    return frame[TIMESTAMP].cast(pa.int64()).to_numpy() // _MICROSECONDS_PER_WEEK


def _date(week: int, frame: pa.Table) -> str:
    weekday = frame[TIMESTAMP][0].cast(pa.int64()).as_py() % _MICROSECONDS_PER_WEEK
    moment = pa.scalar(week * _MICROSECONDS_PER_WEEK + weekday, pa.timestamp("us", "UTC")).as_py()
    return f"{moment:%Y-%m-%d}"


def floats(frame: pa.Table, name: str) -> Floats:
    """A numeric or boolean column, NaN where it is missing."""
    return pc.cast(frame[name], pa.float64()).to_numpy()
