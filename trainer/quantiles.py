"""The quantiles that every model forecasts. The median is the point forecast."""

import torch
from torch import Tensor
from torch.nn import functional

QUANTILES = (0.1, 0.5, 0.9)
MEDIAN = QUANTILES.index(0.5)


def ordered(median: Tensor, spread: Tensor) -> Tensor:
    """Quantiles that never cross: the median, and as far below and above it as the softplus of `spread` says.

    Args:
        median: [..., 1].
        spread: [..., 2]; moves the outer quantiles alone: through them no gradient reaches the median.

    Returns:
        [..., 3], ascending.
    """
    below, above = functional.softplus(spread).split(1, dim=-1)
    centre = median.detach()
    return torch.cat([centre - below, median, centre + above], dim=-1)
