"""Conditions around each store by week: weather, fuel, prices, employment and markdowns."""

from dataclasses import dataclass
from datetime import date

import numpy as np

from forecast_assets.sample_data.catalog import Stores
from forecast_assets.sample_data.streams import (
    Floats,
    Purpose,
    autoregression,
    cosine_of_year,
    exp,
    log,
    rounded,
    stream,
)
from forecast_assets.sample_data.weeks import (
    CHRISTMAS,
    FEATURE_WEEKS,
    THANKSGIVING,
    WEEKS,
    WEEKS_PER_YEAR,
    YEAR_WEEK,
)

MARKDOWNS = 5
# Data set figures: markdowns begin here; CPI and unemployment are unknown for the last 13 weeks.
_FIRST_MARKDOWN = WEEKS.index(date(2011, 11, 11))
_UNKNOWN_WEEKS = 13
_REGIONS_OF_FUEL, _REGIONS_OF_CPI = 8, 15
_WARMEST = 24
# Data set figures: means of the year around each middle of a year, 2010 to 2013.
_MID_YEARS = (20, 72, 124, 176)
_FUEL = (2.75, 3.56, 3.67, 3.61)
_UNEMPLOYMENT = (8.5, 8.1, 7.3, 6.8)

# Set near the data set's figures, by markdown: median in a store of type A, the same by type over A, sd of the log,
# share present by type, largest amounts, share of negative amounts.
_MEDIAN = log(np.array([6_351.0, 300, 35, 1_500, 3_843]))
_BY_TYPE = log(np.array([[1, 1, 1, 1, 1], [0.74, 0.6, 0.7, 0.6, 0.59], [0.044, 0.1, 0.2, 0.05, 0.28]]))
_LOG_SD = np.array([0.85, 1.7, 1.7, 1.3, 0.6])
_PRESENT = np.array([[1, 0.88, 0.93, 0.92, 1], [1, 0.86, 0.93, 0.99, 1], [0.97, 0.4, 0.77, 0.23, 1]])
_LARGEST = np.array([103e3, 105e3, 149e3, 67e3, 771e3])
_LARGEST_NEGATIVE = 250.0
_NEGATIVE = (0.001, 0.0085, 0.0037, 0.0, 0.0005)
# How far what is on offer in a week moves all five together: markdowns 1 and 4 most, then 5.
_TOGETHER = np.array([0.85, 0.2, 0.2, 0.8, 0.6])
# Set near the data set's figures: what a markdown (counted from 0) reaches in an event, as a multiple of its median,
# by week of the retail year.
_EVENTS = (
    (THANKSGIVING, 2, 2_500.0),
    (THANKSGIVING, 0, 0.1),
    (THANKSGIVING, 3, 0.05),
    (THANKSGIVING + 1, 2, 50.0),
    (THANKSGIVING + 1, 4, 4.5),
    (THANKSGIVING + 2, 4, 2.0),
    (CHRISTMAS, 1, 200.0),
    (CHRISTMAS + 1, 1, 100.0),
    (CHRISTMAS + 2, 1, 40.0),
    (CHRISTMAS + 3, 1, 15.0),
    (0, 0, 4.0),
    (0, 3, 12.0),
)
_MONTH_START = 1.8
# Data set figures: markdown 2 all but absent in the first five weeks here and absent in the next three, markdown 3 all
# but absent in one.
_BLANK_2 = [WEEKS.index(date(2012, 4, 6))] + [WEEKS.index(date(2012, 5, day)) for day in (4, 11, 18, 25)]
_ABSENT_2 = [WEEKS.index(date(2012, 10, day)) for day in (5, 12, 19)]
_BLANK_3 = WEEKS.index(date(2012, 6, 29))
_BLANK_SHARE = 0.1


@dataclass(frozen=True)
class Conditions:
    """What features.csv says of each store and week; NaN where it is unknown. Markdowns by store, number and week."""

    temperature: Floats
    fuel_price: Floats
    markdowns: Floats
    cpi: Floats
    unemployment: Floats


class Surroundings:
    """The regions of the chain, and from them the conditions of each store."""

    def __init__(self, seed: int, stores: Stores) -> None:
        self._seed = seed
        self._stores = stores
        rng = stream(seed, Purpose.REGIONS)
        self._fuel = _fuel_by_region(rng)
        self._cpi = _cpi_by_region(rng)
        # Regions are dealt out in turn, so that all of them are in use; half of the CPI regions are on each level.
        self._fuel_region = rng.permutation(np.arange(len(stores)) % _REGIONS_OF_FUEL)
        self._cpi_region = rng.permutation(np.arange(len(stores)) % _REGIONS_OF_CPI)
        self._offer = rng.standard_normal(FEATURE_WEEKS)

    def of_store(self, store: int) -> Conditions:
        """The conditions of a store (counted from 0) over the full calendar."""
        rng = stream(self._seed, Purpose.CONDITIONS, store)
        unknown = np.arange(FEATURE_WEEKS) >= FEATURE_WEEKS - _UNKNOWN_WEEKS
        return Conditions(
            temperature=rounded(_temperature(rng), 2),
            fuel_price=self._fuel[self._fuel_region[store]],
            markdowns=rounded(self._markdowns(store), 2),
            cpi=np.where(unknown, np.nan, self._cpi[self._cpi_region[store]]),
            unemployment=np.where(unknown, np.nan, rounded(_unemployment(rng), 3)),
        )

    def _markdowns(self, store: int) -> Floats:
        rng = stream(self._seed, Purpose.MARKDOWNS, store)
        kind = self._stores.type_index[store]
        shared = 0.7 * self._offer + 0.7 * rng.standard_normal(FEATURE_WEEKS)
        own = rng.standard_normal((MARKDOWNS, FEATURE_WEEKS))
        noise = _TOGETHER[:, None] * shared + np.sqrt(1 - _TOGETHER**2)[:, None] * own
        amounts = exp(_MEDIAN[:, None] + _BY_TYPE[kind][:, None] + _LOG_SD[:, None] * noise) * _events()
        amounts = np.clip(amounts, 0.01, _LARGEST[:, None])
        present = rng.random(amounts.shape) < _PRESENT[kind][:, None] * _availability()
        negative = rng.random(amounts.shape) < np.array(_NEGATIVE)[:, None]
        return np.where(present, np.where(negative, -np.minimum(amounts, _LARGEST_NEGATIVE), amounts), np.nan)


def _temperature(rng: np.random.Generator) -> Floats:
    # Data set figures: store means of 38-75, yearly swing of 32-55 degrees, residual sd 4.2; warm places swing less.
    mean = rng.uniform(43, 75)
    swing = np.clip(50 - 0.35 * (mean - 38) + rng.normal(0, 4), 32, 55)
    weather = 4.2 * autoregression(rng.standard_normal(FEATURE_WEEKS), 0.35)
    warmth: Floats = mean + swing / 2 * cosine_of_year(YEAR_WEEK - _WARMEST) + weather
    return warmth


def _fuel_by_region(rng: np.random.Generator) -> Floats:
    nation = np.interp(np.arange(FEATURE_WEEKS), _MID_YEARS, _FUEL)
    nation = nation + 0.16 * autoregression(rng.standard_normal(FEATURE_WEEKS), 0.97)
    region = rng.permutation(np.linspace(-0.18, 0.3, _REGIONS_OF_FUEL))
    local = 0.05 * autoregression(rng.standard_normal((_REGIONS_OF_FUEL, FEATURE_WEEKS)), 0.9)
    return rounded(nation + region[:, None] + local, 3)


def _cpi_by_region(rng: np.random.Generator) -> Floats:
    # Data set figures: two groups, 126-143 and 182-229; +6 % over the span.
    low = _REGIONS_OF_CPI // 2
    base = np.concatenate([rng.uniform(126.1, 134, low), rng.uniform(182.5, 214, _REGIONS_OF_CPI - low)])
    growth = np.linspace(0, 0.06, FEATURE_WEEKS)
    wander = 0.002 * autoregression(rng.standard_normal((_REGIONS_OF_CPI, FEATURE_WEEKS)), 0.98)
    return rounded(base[:, None] * (1 + growth + wander), 7)


def _unemployment(rng: np.random.Generator) -> Floats:
    quarters = np.array([(week.year, (week.month - 1) // 3) for week in WEEKS])
    quarter = np.cumsum(np.any(np.diff(quarters, axis=0, prepend=quarters[:1]) != 0, axis=1))
    middle = np.interp(np.linspace(0, FEATURE_WEEKS, quarter[-1] + 1), _MID_YEARS, _UNEMPLOYMENT)
    level = float(exp(np.array(rng.normal(0, 0.2))))
    steps = middle * np.clip(level, 0.55, 1.6) + rng.normal(0, 0.15, len(middle))
    rate: Floats = steps[quarter]
    return rate


def _events() -> Floats:
    multiple = np.ones((MARKDOWNS, FEATURE_WEEKS))
    first_of_month = np.array([week.day <= 7 for week in WEEKS])
    multiple[0, first_of_month] = multiple[3, first_of_month] = _MONTH_START
    for week, markdown, size in _EVENTS:
        multiple[markdown, week % WEEKS_PER_YEAR == YEAR_WEEK] = size
    return multiple


def _availability() -> Floats:
    share = np.ones((MARKDOWNS, FEATURE_WEEKS))
    share[1, _BLANK_2] = _BLANK_SHARE
    share[1, _ABSENT_2] = 0
    share[2, _BLANK_3] = _BLANK_SHARE
    share[:, :_FIRST_MARKDOWN] = 0
    return share
