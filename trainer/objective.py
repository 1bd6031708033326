"""What training minimises.

Shapes: M members, B rows, Q quantiles.
"""

from functools import cache

import torch
from torch import Tensor

from trainer.quantiles import QUANTILES


def loss(prediction_MBQ: Tensor, target_B: Tensor, weight_B: Tensor) -> Tensor:
    """The batch's mean absolute error of the median and pinball loss of the outer quantiles, weighted by row.

    Summed over members, so that each learns as fast as it would alone. Koenker and Bassett 1978, "Regression
    quantiles": the pinball loss of quantile q is max(q e, (q - 1) e) of the error e = y - f; twice that of the median
    is the absolute error.
    """
    error_MBQ = target_B[:, None] - prediction_MBQ
    # The maximum of both, written so that its gradient needs no comparisons: a constant per row and quantile.
    slope_MBQ = _quantiles(error_MBQ.device) - (error_MBQ.detach() < 0).to(error_MBQ.dtype)
    return 2 * ((slope_MBQ * error_MBQ).sum(2) * weight_B).mean(1).sum()


@cache
def _quantiles(device: torch.device) -> Tensor:
    # Made anew for each batch, it would make the CPU wait for the GPU each time.
    return torch.tensor(QUANTILES, device=device)
