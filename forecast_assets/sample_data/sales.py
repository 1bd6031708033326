"""Weekly sales of one store: level, seasons and noise as a product, then what the records make of it."""

import numpy as np
from numpy.typing import NDArray

from forecast_assets.sample_data.assortment import Assortment
from forecast_assets.sample_data.catalog import STORE_TYPES
from forecast_assets.sample_data.seasons import Seasons
from forecast_assets.sample_data.streams import Floats, Purpose, autoregression, exp, log, ranks, rounded, stream
from forecast_assets.sample_data.weeks import SALES_WEEKS, WEEKS_PER_YEAR, YEAR_WEEK

# Data set figures, by level of the series: sd of the noise left after department and week, and its lag-1
# autocorrelation. What recurs after a year is set above the lag-52 figure, so that the measured one comes near it: in
# three years much of it goes into the mean of the series.
_LEVELS = log(np.array([22.0, 160, 1_000, 3_200, 7_000, 14_000, 31_000, 70_000]))
_NOISE_SD = np.array([0.64, 0.38, 0.25, 0.18, 0.145, 0.122, 0.095, 0.066])
_LAG_1 = np.array([0.23, 0.38, 0.52, 0.43, 0.50, 0.55, 0.52, 0.46])
_LAG_52 = np.array([0.12, 0.18, 0.40, 0.42, 0.52, 0.62, 0.64, 0.64])
# Data set figure: excess kurtosis of that noise is about 1, which a t distribution of 10 degrees has.
_TAIL = 10
_STORE_TREND_SD = 0.04
_FESTIVE_SD = 0.08

# Data set figure: share of negative weeks by level of the series.
_NEGATIVE_LEVELS = log(np.array([22.0, 160, 1_000, 3_200, 7_000, 12_000]))
_NEGATIVE_SHARE = np.array([0.048, 0.0071, 0.0021, 0.0015, 0.0004, 0.0])
# Data set figure: the department with the most returns is negative in 254 of its 610 rows.
_NEGATIVE_SHARE_OF_RETURNS = 0.42
# Data set figures: negative sales have a median of -13, a first percentile of -798 and a minimum of -4,989.
_NEGATIVE_LOG_MEDIAN, _NEGATIVE_LOG_SD, _NEGATIVE_LIMIT = log(13.0), 1.8, 4_989.0
_ZERO_SHARE = 0.06  # of as many weeks as are negative
# Data set figure: 24 % of sales below 100 are whole amounts, against 4 % of large ones: single items at their price.
_PRICE_POINT_LIMIT, _PRICE_POINT_SHARE = 100.0, 0.23
_PRESENCE_AR, _PRESENCE_SLOW = 0.97, 0.75


def store_sales(seed: int, assortment: Assortment, seasons: Seasons, store: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Sales in dollars and cents of each series of a store (counted from 0) by week, and which weeks have a row."""
    series = assortment.of_store(store)
    records = stream(seed, Purpose.RECORDS, store)
    sales = _demand(seed, assortment, seasons, store)
    sales = _recorded(records, assortment, series, sales)
    return sales, _present(records, assortment.rows[series])


def _demand(seed: int, assortment: Assortment, seasons: Seasons, store: int) -> Floats:
    rng = stream(seed, Purpose.DEMAND, store)
    series = assortment.of_store(store)
    level, department = assortment.log_level[series], assortment.department[series]
    count = len(level)
    sd, lag_1, lag_52 = (np.interp(level, _LEVELS, figures) for figures in (_NOISE_SD, _LAG_1, _LAG_52))
    # The noise is half a trend and half a year of the series' own, as far as it recurs, and autoregressive otherwise.
    drift = lag_52 / 2
    coefficient = (lag_1 - drift) / (1 - drift)
    own_year = autoregression(rng.standard_normal((count, WEEKS_PER_YEAR)), coefficient)[:, YEAR_WEEK[:SALES_WEEKS]]
    passing = autoregression(rng.standard_t(_TAIL, (count, SALES_WEEKS)) * np.sqrt(1 - 2 / _TAIL), coefficient)
    centred = np.linspace(-1, 1, SALES_WEEKS) * np.sqrt(3)
    trend = rng.standard_normal(count)[:, None] * centred
    noise = np.sqrt(drift)[:, None] * (trend + own_year) + np.sqrt(1 - lag_52)[:, None] * passing
    store_trend = rng.normal(0, _STORE_TREND_SD) * np.linspace(-1, 1, SALES_WEEKS) * SALES_WEEKS / WEEKS_PER_YEAR / 2
    festive = STORE_TYPES[assortment.stores.type_index[store]].festive * rng.normal(1, _FESTIVE_SD, count)
    return exp(
        level[:, None]
        + seasons.ordinary[department]
        + festive[:, None] * seasons.festive[department]
        + store_trend
        + sd[:, None] * noise
    )


def _recorded(rng: np.random.Generator, assortment: Assortment, series: slice, sales: Floats) -> Floats:
    """Sales as the records have them: returns, zeros, and single items at their price."""
    negative_share = np.interp(assortment.log_level[series], _NEGATIVE_LEVELS, _NEGATIVE_SHARE)
    negative_share *= rng.standard_exponential(len(negative_share)) ** 2 / 2
    returns = assortment.departments.returns[assortment.department[series]]
    negative_share[returns] = _NEGATIVE_SHARE_OF_RETURNS
    fate = rng.random(sales.shape)
    refund = exp(_NEGATIVE_LOG_MEDIAN + _NEGATIVE_LOG_SD * rng.standard_normal(sales.shape))
    whole = (sales < _PRICE_POINT_LIMIT) & (rng.random(sales.shape) < _PRICE_POINT_SHARE)
    sales = np.where(whole, np.maximum(np.round(sales), 1), np.maximum(sales, 0.01))
    negative = fate < negative_share[:, None]
    zero = ~negative & (fate < (1 + _ZERO_SHARE) * negative_share[:, None]) & ~returns[:, None]
    sales = np.where(negative, -np.clip(refund, 0.01, _NEGATIVE_LIMIT), np.where(zero, 0.0, sales))
    return rounded(sales * 100, 0) / 100


def _present(rng: np.random.Generator, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The weeks with a row: those of a series' highest presence, which wanders slowly and flickers."""
    shape = (len(rows), SALES_WEEKS)
    presence = _PRESENCE_SLOW * autoregression(rng.standard_normal(shape), _PRESENCE_AR)
    presence += (1 - _PRESENCE_SLOW) * rng.standard_normal(shape)
    return ranks(-presence) < rows[:, None]
