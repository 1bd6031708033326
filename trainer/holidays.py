"""Easter, which moves: last year's same week says nothing of it, and no flag in the data does."""

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.frame import require_columns
from trainer.level import Floats

_DAYS_PER_WEEK = 7
_YEAR = 52 * _DAYS_PER_WEEK
_EPOCH = datetime.date(1970, 1, 1)

EASTER_SIGNALS = {
    "easter": 0,
    "after_easter": _DAYS_PER_WEEK,
    "easter_year_ago": _YEAR,
    "after_easter_year_ago": _YEAR + _DAYS_PER_WEEK,
}
"""Per signal, how many days before the row's date the week of Easter has to be."""


def easter_sunday(year: int) -> datetime.date:
    """The date of Easter in the Gregorian calendar ("Anonymous" algorithm; Meeus 1991, "Astronomical Algorithms")."""
    century, in_century = divmod(year, 100)
    golden = year % 19
    moon = (19 * golden + century - century // 4 - (century - (century + 8) // 25 + 1) // 3 + 15) % 30
    weekday = (32 + 2 * (century % 4) + 2 * (in_century // 4) - moon - in_century % 4) % 7
    month, day = divmod(moon + weekday - 7 * ((golden + 11 * moon + 22 * weekday) // 451) + 114, 31)
    return datetime.date(year, month, day + 1)


def easter_signals(table: pa.Table, timestamp: str) -> dict[str, Floats]:
    """Per signal, 1 for rows in the week it names, and else 0. The week of Easter is that of a date in the last seven
    days up to Easter Sunday.

    Raises:
        FrameError: the column is missing.
    """
    require_columns(table, [timestamp])
    day_N = pc.cast(pc.cast(table[timestamp], pa.date32()), pa.int32()).to_numpy().astype(np.int64)
    if not len(day_N):
        return {name: np.empty(0) for name in EASTER_SIGNALS}
    first, last = ((_EPOCH + datetime.timedelta(days=int(day))).year for day in (day_N.min(), day_N.max()))
    sundays = np.array([(easter_sunday(year) - _EPOCH).days for year in range(first - 2, last + 2)], dtype=np.int64)

    def just_before(date_N: np.ndarray[Any, np.dtype[np.int64]]) -> Floats:
        next_N = sundays[np.searchsorted(sundays, date_N)]
        return (next_N - date_N < _DAYS_PER_WEEK).astype(np.float64)

    return {name: just_before(day_N - days) for name, days in EASTER_SIGNALS.items()}
