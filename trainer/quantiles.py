"""The quantiles that every model forecasts. The median is the point forecast.

Shapes: N rows, M members, B rows of a batch, Q quantiles.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trainer.level import Floats

QUANTILES = (0.1, 0.5, 0.9)
MEDIAN = QUANTILES.index(0.5)

Spread = tuple[float, float]
"""Factors of the distances from the median to the lower and to the upper quantile."""

_MIN_ROWS = 50
_DRIFT = 0.005
_SMALLEST_DISTANCE = 1e-6


def ordered(median_MB1: Tensor, spread_B2: Tensor) -> Tensor:
    """Quantiles that never cross: the members' mean median, and as far below and above it as softplus(spread) says.

    Through the outer quantiles no gradient reaches the medians.

    Returns:
        prediction_MBQ; the outer quantiles are the same for all members.
    """
    below_B1, above_B1 = functional.softplus(spread_B2).split(1, dim=1)
    centre_B1 = median_MB1.detach().mean(0)
    outer = [quantile_B1.expand_as(median_MB1) for quantile_B1 in (centre_B1 - below_B1, centre_B1 + above_B1)]
    return torch.cat([outer[0], median_MB1, outer[1]], dim=2)


def calibrated_spread(quantile_NQ: Floats, actual_N: Floats) -> Spread:
    """The factors that would have made the outer quantiles right on rows that the model has not learned from.

    Split conformal prediction with errors relative to the model's own spread (Lei et al. 2018, "Distribution-free
    predictive inference for regression", section 5.2), each side for itself. 1 where there are hardly any rows.

    A little more is covered here than is promised: weeks differ from one another, so that of the weeks to come less
    falls inside than of the few calibrated on. Over four folds in time that was 1 row in 100, half of it on each side.
    """
    if len(actual_N) < _MIN_ROWS:
        return 1.0, 1.0
    error_N = actual_N - quantile_NQ[:, MEDIAN]
    distance_N2 = np.maximum(np.diff(quantile_NQ, axis=1), _SMALLEST_DISTANCE)
    below = np.quantile(-error_N / distance_N2[:, 0], 1 - QUANTILES[0] + _DRIFT)
    above = np.quantile(error_N / distance_N2[:, 1], QUANTILES[-1] + _DRIFT)
    return max(0.0, float(below)), max(0.0, float(above))


def rescaled(quantile_NQ: Floats, spread: Spread) -> Floats:
    """The quantiles with the outer ones moved to `spread` times their distance from the median."""
    median_N1 = quantile_NQ[:, [MEDIAN]]
    return median_N1 + (quantile_NQ - median_N1) * np.array([spread[0], 1.0, spread[1]])
