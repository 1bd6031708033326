"""What all stores share: each department's year, moving holidays, trend and common weekly noise, as log effects."""

from dataclasses import dataclass

import numpy as np

from forecast_assets.sample_data import weeks
from forecast_assets.sample_data.catalog import FLAT, GIFT, KINDS, SPARSE, SPRING_SUMMER, Departments
from forecast_assets.sample_data.streams import Floats, Purpose, autoregression, cosine_of_year, log, ranks, stream

# Data set figures: uplift over normal weeks, by department, at these shares of the departments.
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_CALM_UPLIFT = {
    weeks.SUPER_BOWL: (0.76, 0.97, 1.05, 1.14, 1.58, 5.5),
    weeks.LABOR_DAY: (0.78, 0.93, 1.01, 1.06, 1.21, 2.0),
}
_WINTER_UPLIFT = {
    weeks.THANKSGIVING: (0.74, 0.97, 1.15, 1.63, 4.3, 21),
    weeks.PRE_CHRISTMAS: (0.80, 1.12, 1.56, 2.75, 5.3, 23),
    weeks.CHRISTMAS: (0.68, 0.80, 0.91, 1.13, 1.58, 13),
}
_EASTER_UPLIFT = (0.93, 1.01, 1.05, 1.15, 1.47, 9.5)
# Data set figure: the weeks between Thanksgiving and the peak climb 1.06, 1.18, 1.31 to 1.72; as shares of its log.
_RUN_UP = (0.17, 0.36, 0.54)
# Data set figure: 1.72 and .86 in 2010, 1.63 and .98 in 2011, when December 24 fell after the peak week.
_EVE_BEFORE, _EVE_AFTER = -0.05, 0.12
_JANUARY = 0.08
_FESTIVE_YEAR_SD = 0.08  # how much one year's holidays differ from another's
_INDEPENDENCE_DAY = 0.07
_EARLY_JUNE = 17
_COMMON_AR = 0.48  # data set figure
_DEPARTMENT_TREND_SD = 0.05
# Data set figure: February-October means of 46.1, 45.8 and 47.0 M in 2010, 2011 and 2012.
_CHAIN_TREND = ((0, 20, 72, 124, 142), (0.0, 0.0, -0.007, 0.02, 0.025))


@dataclass(frozen=True)
class Seasons:
    """Log effects by department and sales week; festive ones apart, because store types differ in them."""

    ordinary: Floats
    festive: Floats


def make_seasons(seed: int, departments: Departments) -> Seasons:
    """The years of all departments."""
    rng = stream(seed, Purpose.SEASONS)
    sales = slice(0, weeks.SALES_WEEKS)
    return Seasons(_ordinary(rng, departments)[:, sales], _festive(rng, departments)[:, sales])


def _ordinary(rng: np.random.Generator, departments: Departments) -> Floats:
    count = len(departments)
    swing, texture, common_sd = np.array([(k.swing, k.texture, k.common_sd) for k in KINDS])[departments.kind].T
    spring = departments.kind == SPRING_SUMMER
    peak = np.where(spring, _EARLY_JUNE + rng.normal(0, 2, count), rng.uniform(0, weeks.WEEKS_PER_YEAR, count))
    year = swing[:, None] * cosine_of_year(np.arange(weeks.WEEKS_PER_YEAR) - peak[:, None])
    year += texture[:, None] * autoregression(rng.standard_normal(year.shape), 0.4)

    years = np.arange(weeks.FEATURE_WEEKS) / weeks.WEEKS_PER_YEAR
    trend = rng.normal(0, _DEPARTMENT_TREND_SD, count)[:, None] * (years - years[weeks.SALES_WEEKS] / 2)
    common = autoregression(rng.standard_normal((count, weeks.FEATURE_WEEKS)), _COMMON_AR)
    payday = rng.normal(0.9, 0.5, count)[:, None] * weeks.payday()
    summer = _INDEPENDENCE_DAY * weeks.independence_day()
    chain = np.interp(np.arange(weeks.FEATURE_WEEKS), *_CHAIN_TREND)
    ordinary: Floats = year[:, weeks.YEAR_WEEK] + trend + common_sd[:, None] * common + payday + summer + chain
    return ordinary


def _festive(rng: np.random.Generator, departments: Departments) -> Floats:
    year = np.zeros((len(departments), weeks.WEEKS_PER_YEAR))
    for week, uplift in _CALM_UPLIFT.items():
        year[:, week] = _uplift(departments, _calm_order(rng, departments), uplift)
    for week, uplift in _WINTER_UPLIFT.items():
        year[:, week] = _uplift(departments, _festive_order(rng, departments), uplift)
    for step, share in enumerate(_RUN_UP, start=weeks.THANKSGIVING + 1):
        year[:, step] = share * year[:, weeks.PRE_CHRISTMAS]
    year[:, weeks.CHRISTMAS + 1 :] = -_JANUARY * np.where(departments.kind == FLAT, 1.0, 2.0)[:, None]
    easter = _uplift(departments, _festive_order(rng, departments), _EASTER_UPLIFT)
    eve = weeks.christmas_eve_after_the_peak()
    retail_year = np.arange(weeks.FEATURE_WEEKS) // weeks.WEEKS_PER_YEAR
    strength = rng.normal(1, _FESTIVE_YEAR_SD, (len(departments), retail_year[-1] + 1))
    festive: Floats = (
        year[:, weeks.YEAR_WEEK] * strength[:, retail_year]
        + easter[:, None] * weeks.easter_week()
        + _EVE_AFTER * eve
        + _EVE_BEFORE * np.roll(eve, -1)
    )
    return festive


def _festive_order(rng: np.random.Generator, departments: Departments) -> Floats:
    """By kind first, then by festivity, with some disorder from event to event."""
    disorder = rng.normal(0, np.where(departments.kind == GIFT, 0.04, 0.3))
    return departments.kind.astype(np.float64) + np.clip(departments.festivity + disorder, 0, 0.99)


def _calm_order(rng: np.random.Generator, departments: Departments) -> Floats:
    """Any department may gain or lose, those that sell the same every week less so."""
    width = np.where(departments.kind == FLAT, 0.25, 1.0)
    order: Floats = width * (rng.random(len(departments)) - 0.5)
    return order


def _uplift(departments: Departments, order: Floats, quantiles: tuple[float, ...]) -> Floats:
    """Log uplift by place in an order of the departments; sparse ones have the median."""
    regular = departments.kind != SPARSE
    share = np.full(len(departments), 0.5)
    share[regular] = (ranks(order[regular]) + 0.5) / regular.sum()
    uplift: Floats = np.interp(share, _SHARES, log(np.array(quantiles)))
    return uplift
