"""Which store carries which department, at what level of sales, and in how many weeks it records a sale."""

import math
from dataclasses import dataclass

import numpy as np

from forecast_assets.sample_data.catalog import (
    DEPARTMENTS,
    KINDS,
    MEDIUM_SIZE,
    STORES,
    Departments,
    Ints,
    Stores,
    make_departments,
    make_stores,
)
from forecast_assets.sample_data.streams import Floats, Purpose, log, ranks, stream
from forecast_assets.sample_data.weeks import SALES_WEEKS

# Data set figures.
SERIES = 3_331
ROWS = 421_570
_CARRIED_SHARE = SERIES / (STORES * DEPARTMENTS)
_FEWEST_STORES = 3
# Set so that log store sales against log floor size have about the slope (.82) and correlation (.89) of the data set.
_SIZE_SLOPE, _STORE_SD = 0.95, 0.22
# Data set figure: rows of a series by its rank of completeness. 37 of 3,331 have one row, 79.9 % have them all.
_ROWS_BY_RANK = (
    (0.0, 0.0111, 0.0112, 0.05, 0.0733, 0.102, 0.139, 0.15, 0.2, 0.2014),
    (1, 1, 2, 10, 20, 52, 104, 115, 142, 143),
)
# A small store sells at most as much more than its floor says, as a log.
_LARGEST_SHIFT = 0.8


@dataclass(frozen=True)
class Assortment:
    """The series of the chain in store, department order: indices into both, log level, and row count."""

    stores: Stores
    departments: Departments
    store: Ints
    department: Ints
    log_level: Floats
    rows: Ints

    def of_store(self, store: int) -> slice:
        """Where the series of one store (counted from 0) lie."""
        first, last = np.searchsorted(self.store, (store, store + 1))
        return slice(int(first), int(last))


def make_assortment(seed: int, size: float) -> Assortment:
    """A chain of size times 45 stores: series and rows in exact proportion, departments fewer only below size 1."""
    if not (math.isfinite(size) and size > 0):
        raise ValueError(f"size must be a number above 0, not {size}")
    series = max(_FEWEST_STORES, round(SERIES * size))
    stores = make_stores(seed, max(_FEWEST_STORES, math.ceil(STORES * size)))
    departments = make_departments(seed, min(DEPARTMENTS, math.ceil(series / (len(stores) * _CARRIED_SHARE))))
    store, department, log_level = _carried(seed, stores, departments, series)
    rows = _row_counts(seed, log_level, min(max(series, round(ROWS * size)), series * SALES_WEEKS))
    return Assortment(stores, departments, store, department, log_level, rows)


def _carried(seed: int, stores: Stores, departments: Departments, series: int) -> tuple[Ints, Ints, Floats]:
    rng = stream(seed, Purpose.ASSORTMENT)
    grid = (len(stores), len(departments))
    pair_sd = np.array([kind.pair_sd for kind in KINDS])[departments.kind]
    shift, shift_sd = np.array([kind.small_store for kind in KINDS])[departments.kind].T
    store_effect = _SIZE_SLOPE * log(stores.size / MEDIUM_SIZE) + rng.normal(0, _STORE_SD, len(stores))
    typical = departments.log_level + store_effect[:, None] + stores.small[:, None] * shift
    own = pair_sd * rng.standard_normal(grid)
    own += stores.small[:, None] * np.minimum(shift_sd * rng.standard_normal(grid), _LARGEST_SHIFT - shift)

    lottery = ranks(rng.random(grid), axis=0)
    drawn = np.where(lottery < np.ceil(departments.carried_by * len(stores)), 100, -100)
    # The rare departments are where the lottery puts them; of the others, what sells least is left out.
    preference = typical + 0.7 * rng.standard_normal(grid) + np.where(departments.carried_by < 1, drawn, 0)
    kept = np.sort(np.argsort(-preference, axis=None, kind="stable")[:series])
    store, department = np.divmod(kept, len(departments))
    return store, department, (typical + own).ravel()[kept]


def _row_counts(seed: int, log_level: Floats, total: int) -> Ints:
    """Row counts that sum to the total; series that sell little are the incomplete ones."""
    rng = stream(seed, Purpose.ROW_COUNTS)
    series = len(log_level)
    order = np.argsort(log_level + 1.3 * rng.standard_normal(series), kind="stable")
    rank = (np.arange(series) + 0.5) / series
    counts = np.floor(np.interp(rank, *_ROWS_BY_RANK)).astype(np.int64)
    while missing := total - int(counts.sum()):
        step = 1 if missing > 0 else -1
        possible = (counts + step >= 1) & (counts + step <= SALES_WEEKS)
        ragged = possible & (counts > 1) & (counts < SALES_WEEKS - 1)
        counts[np.flatnonzero(ragged if ragged.any() else possible)[: abs(missing)]] += step
    rows = np.empty(series, dtype=np.int64)
    rows[order] = counts
    return rows
