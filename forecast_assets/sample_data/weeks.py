"""The calendar: Fridays, flagged holidays, and where each week stands in the retail year."""

from datetime import date, timedelta

import numpy as np

from forecast_assets.sample_data.streams import Floats

FIRST_WEEK = date(2010, 2, 5)
LAST_SALES_WEEK = date(2012, 10, 26)
SALES_WEEKS = 143
FEATURE_WEEKS = 182
WEEKS_AHEAD = FEATURE_WEEKS - SALES_WEEKS
WEEKS_PER_YEAR = 52

WEEKS = tuple(FIRST_WEEK + timedelta(weeks=week) for week in range(FEATURE_WEEKS))

# Week of the retail year: 52 weeks from the first Friday on, so that every flagged holiday keeps its week.
YEAR_WEEK = np.arange(FEATURE_WEEKS) % WEEKS_PER_YEAR
SUPER_BOWL, LABOR_DAY, THANKSGIVING, PRE_CHRISTMAS, CHRISTMAS = 1, 31, 42, 46, 47
# The Christmas flag is on the week after the peak.
IS_HOLIDAY = np.isin(YEAR_WEEK, (SUPER_BOWL, LABOR_DAY, THANKSGIVING, CHRISTMAS))

_EASTER_SUNDAYS = (date(2010, 4, 4), date(2011, 4, 24), date(2012, 4, 8), date(2013, 3, 31))
# Data set figure: sales index of Fridays on days 1-7, 8-14, 15-21, 22-28 and 29-31 of the month, as a log.
_PAYDAY = (0.03, 0.01, 0.0, -0.02, -0.04)


def weeks_through(through: date | None) -> int:
    """How many sales weeks lie up to a date; ValueError where the calendar does not hold it."""
    if through is None:
        return SALES_WEEKS
    if not FIRST_WEEK <= through <= LAST_SALES_WEEK:
        raise ValueError(f"through must lie in {FIRST_WEEK}..{LAST_SALES_WEEK}, not {through}")
    return (through - FIRST_WEEK).days // 7 + 1


def easter_week() -> Floats:
    """1 in the week whose Friday precedes Easter Sunday, else 0."""
    return np.array([float(week + timedelta(days=2) in _EASTER_SUNDAYS) for week in WEEKS])


def independence_day() -> Floats:
    """The share of the July 4 shopping that falls in each week: what precedes the day in its Saturday-Friday week."""
    share = np.zeros(FEATURE_WEEKS)
    for year in range(FIRST_WEEK.year, WEEKS[-1].year + 1):
        days_before = (date(year, 7, 4) - FIRST_WEEK).days + 6
        week = days_before // 7
        share[week] = (days_before % 7 + 1) / 7
        share[week - 1] = 1 - share[week]
    return share


def christmas_eve_after_the_peak() -> Floats:
    """1 in the flagged Christmas weeks that also hold December 24, as in 2011, else 0."""
    return np.array([float(0 <= (week - date(week.year, 12, 24)).days < 7 and week.day != 24) for week in WEEKS])


def payday() -> Floats:
    """The log effect of the day of the month: pay and benefits come at its start."""
    return np.array([_PAYDAY[(week.day - 1) // 7] for week in WEEKS])
