"""The stores and the departments of the chain."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from forecast_assets.sample_data.streams import Floats, Purpose, log, stream

Ints = NDArray[np.int64]

STORES = 45
DEPARTMENTS = 81
_HIGHEST_DEPARTMENT = 99
MEDIUM_SIZE = 150_000.0
SMALL_SIZE = 45_000


@dataclass(frozen=True)
class StoreType:
    """A store format: its share of the chain, floor sizes, and how strongly festive weeks move it."""

    name: str
    stores: int
    size: tuple[float, float]
    size_limits: tuple[int, int]
    mistyped: int
    festive: float


# Data set figures: 22, 17 and 6 stores of 177, 101 and 40.5 thousand square feet on average; the upper limits, and the
# range of C; two A and two B have the size of a C. Thanksgiving is x1.45 in A, x1.67 in B, x1.02 in C.
STORE_TYPES = (
    StoreType("A", 22, (189_000, 24_000), (145_000, 219_622), 2, 0.96),
    StoreType("B", 17, (110_000, 17_000), (57_000, 140_167), 2, 1.14),
    StoreType("C", 6, (40_500, 1_200), (39_690, 42_988), 0, 0.5),
)


@dataclass(frozen=True)
class Stores:
    """The stores, by id from 1 on: index into STORE_TYPES, and floor size."""

    type_index: Ints
    size: Ints

    @property
    def small(self) -> NDArray[np.bool_]:
        """Stores that sell food and little else; size tells, not the type, which is wrong for a few."""
        return self.size < SMALL_SIZE

    def __len__(self) -> int:
        return len(self.size)


@dataclass(frozen=True)
class Kind:
    """A kind of department; all but its levels, in weekly dollars, are logs."""

    departments: int
    level: tuple[float, float]  # of its largest and its smallest department, in a store of medium size
    pair_sd: float  # between stores, beyond their size
    small_store: tuple[float, float]  # mean and sd of the shift in small stores
    swing: float  # of the yearly wave
    texture: float  # sd of what else recurs each year
    common_sd: float  # sd of a week that all stores share


# Data set figures: 3 spring-summer, 19 flat, 22 moderate, 28 gift and 9 sparse departments, with 4, 57, 12, 27 and
# almost 0 % of sales; levels and spreads are set to come near these shares. Ordered from the least to the most
# festive, the sparse ones last.
KINDS = (
    Kind(3, (17_000, 4_500), 0.5, (-2.2, 1.2), 1.0, 0.08, 0.10),
    Kind(19, (68_000, 10_500), 0.2, (0.6, 0.4), 0.035, 0.033, 0.014),
    Kind(22, (17_000, 1_800), 0.7, (-3.1, 2.2), 0.16, 0.07, 0.035),
    Kind(28, (40_000, 600), 0.5, (-3.1, 2.2), 0.12, 0.09, 0.045),
    Kind(9, (300, 0.8), 1.1, (0.0, 0.5), 0.2, 0.2, 0.1),
)
SPRING_SUMMER, FLAT, MODERATE, GIFT, SPARSE = range(5)

# Data set figure: the rarest departments are in 1, 5, 5, 14, 20 and 25 of 45 stores. Here, by place in
# the full list: a flat one, three moderate ones, and the two smallest sparse ones.
_RARE = {12: 1, 36: 20, 43: 25, 40: 14, 79: 5, 80: 5}
# The largest gift departments (electronics, toys) and the smallest (jewellery) peak most, those between them least.
_FESTIVITY_BY_RANK = ((0.0, 0.4, 1.0), (0.84, 0.0, 1.0))


@dataclass(frozen=True)
class Departments:
    """The departments in ascending number, as parallel arrays."""

    number: Ints
    kind: Ints
    log_level: Floats
    festivity: Floats
    carried_by: Floats
    returns: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.number)


def make_stores(seed: int, count: int) -> Stores:
    """Stores with the chain's mix of types, in random order."""
    rng = stream(seed, Purpose.STORES)
    share = count / STORES
    counts = [max(1, round(kind.stores * share)) for kind in STORE_TYPES]
    counts[1] += count - sum(counts)
    type_index = rng.permutation(np.repeat(np.arange(len(STORE_TYPES)), counts))
    size = np.empty(count, dtype=np.int64)
    for index, kind in enumerate(STORE_TYPES):
        members = np.flatnonzero(type_index == index)
        size[members] = _sizes(rng, kind, len(members))
        mistyped = members[: round(kind.mistyped * share)]
        size[mistyped] = _sizes(rng, STORE_TYPES[-1], len(mistyped))
    return Stores(type_index, size)


def _sizes(rng: np.random.Generator, kind: StoreType, count: int) -> Ints:
    sizes = np.clip(rng.normal(*kind.size, count), *kind.size_limits)
    return np.round(sizes).astype(np.int64)


def make_departments(seed: int, count: int) -> Departments:
    """Departments of all kinds; a smaller chain gets an even pick of the full list."""
    rng = stream(seed, Purpose.DEPARTMENTS)
    sizes = [kind.departments for kind in KINDS]
    kind = np.repeat(np.arange(len(KINDS)), sizes)
    rank = np.concatenate([np.linspace(0, 1, size) for size in sizes])
    top, bottom = (log(np.array([k.level[end] for k in KINDS])) for end in (0, 1))
    log_level = top[kind] + (bottom - top)[kind] * rank + rng.normal(0, 0.08, DEPARTMENTS)
    festivity = np.where(kind == GIFT, np.interp(rank, *_FESTIVITY_BY_RANK), rng.random(DEPARTMENTS))
    carried_by = np.ones(DEPARTMENTS)
    for index, stores in _RARE.items():
        carried_by[index] = stores / STORES
    returns = np.arange(DEPARTMENTS) == DEPARTMENTS - 3
    number = rng.permutation(_HIGHEST_DEPARTMENT)[:DEPARTMENTS] + 1

    picked = np.round(np.linspace(0, DEPARTMENTS - 1, count)).astype(np.int64)
    picked = picked[np.argsort(number[picked])]
    return Departments(
        number[picked], kind[picked], log_level[picked], festivity[picked], carried_by[picked], returns[picked]
    )
