"""How good a model is on the validation rows, each process scoring a share.

Shapes: N rows of this process's share, Q quantiles.
"""

import numpy as np
import torch
from torch import nn

from trainer.dataset import Rows
from trainer.distributed import World
from trainer.forecaster import mean_correction
from trainer.level import signed_exp
from trainer.metrics import score_sums, scores
from trainer.objective import loss as batch_loss
from trainer.quantiles import MEDIAN


def validate(model: nn.Module, rows: Rows, world: World, *, parts: int) -> tuple[float, dict[str, float]]:
    """The model's mean loss and its scores, the same on all processes.

    Args:
        parts: into how many each pass through the model is cut.
    """
    share = slice(world.rank, None, world.size)
    index_N = torch.arange(len(rows), device=world.device)[share]
    correction_NQ = mean_correction(model, rows.inputs, index_N, parts=parts)
    loss_sum = 0.0
    if len(index_N):
        loss = batch_loss(correction_NQ[None], rows.target[index_N], rows.weight[index_N])
        loss_sum = (loss.double() * len(index_N)).item()
    correction_N = correction_NQ[:, MEDIAN]
    forecast_N = signed_exp(rows.start[share] + correction_N.cpu().numpy().astype(np.float64))
    sums = score_sums(rows.actual[share], forecast_N, rows.is_holiday[share])
    loss_total, *score_totals = world.total(np.array([loss_sum, *sums]))
    return float(loss_total) / len(rows), scores(np.array(score_totals))
