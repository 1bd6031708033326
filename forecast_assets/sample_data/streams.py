"""Random streams, and arithmetic that rounds alike on every machine: files of one seed are the same byte for byte."""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_HALVINGS = 8


class Purpose(IntEnum):
    """What a random stream is for: one per purpose, so that a change in one leaves the others as they were."""

    STORES = 1
    DEPARTMENTS = 2
    ASSORTMENT = 3
    ROW_COUNTS = 4
    SEASONS = 5
    DEMAND = 6
    RECORDS = 7
    REGIONS = 8
    CONDITIONS = 9
    MARKDOWNS = 10


def stream(seed: int, purpose: Purpose, store: int = 0) -> np.random.Generator:
    """The generator of one purpose, and of one store where the purpose has a stream per store."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, purpose, store])))


def exp(x: Floats) -> Floats:
    """The exponential by multiplication and addition only: those round alike everywhere, np.exp does not."""
    r = x / 2**_HALVINGS
    power: Floats = 1 + r * (1 + r / 2 * (1 + r / 3 * (1 + r / 4 * (1 + r / 5 * (1 + r / 6)))))
    for _ in range(_HALVINGS):
        power = power * power
    return power


def log(x: float | Floats) -> Floats:
    """The logarithm for constants, rounded so that its last bits do not matter."""
    return rounded(np.log(np.asarray(x, dtype=np.float64)), 9)


def cosine_of_year(week: Floats | NDArray[np.int64]) -> Floats:
    """A yearly cosine that peaks at week 0, rounded so that its last bits do not matter."""
    return rounded(np.cos(2 * np.pi * week / 52), 9)


def rounded(x: Floats, decimals: int) -> Floats:
    """Rounding to decimals, typed."""
    return np.asarray(np.round(x, decimals), dtype=np.float64)


def ranks(x: Floats, axis: int = -1) -> NDArray[np.int64]:
    """The rank of each value along an axis, from 0; ties go by position, since other sorts differ by processor."""
    order = np.argsort(x, axis=axis, kind="stable")
    return np.argsort(order, axis=axis, kind="stable")


def autoregression(shocks: Floats, coefficient: float | Floats) -> Floats:
    """AR(1) along the last axis, with the variance of the shocks; coefficient is one per row or one for all."""
    values = np.array(shocks)
    keep = np.asarray(coefficient, dtype=np.float64)
    fresh = np.sqrt(1 - keep * keep)
    for week in range(1, values.shape[-1]):
        values[..., week] = keep * values[..., week - 1] + fresh * shocks[..., week]
    return values
