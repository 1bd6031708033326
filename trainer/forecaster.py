"""A trained model as a function from rows to dollars.

Shapes: N rows, M members, B rows at once, Q quantiles.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from trainer.dataset import Inputs
from trainer.frame import require_columns
from trainer.history import History
from trainer.inputs import Encoder
from trainer.level import Floats, signed_exp
from trainer.quantiles import MEDIAN
from trainer.windows import read_windows

_ROWS_AT_ONCE = 16_384


@dataclass(kw_only=True, slots=True, frozen=True)
class Forecaster:
    """An encoder and the model fitted on its inputs, on the CPU."""

    encoder: Encoder
    model: nn.Module

    def predict(self, table: pa.Table) -> Floats:
        """Forecast each row, in dollars; float64, finite for every row, unknown stores and departments included.

        The label is not read and need not be in the table.

        Raises:
            FrameError: a column the model needs is missing.
        """
        return self.predict_quantiles(table)[:, MEDIAN]

    def predict_quantiles(self, table: pa.Table) -> Floats:
        """The 10 %, 50 % and 90 % quantile of each row's sales, in dollars; float64 [N, 3], ascending and finite.

        The 50 % quantile is the forecast. The rest as `predict`.
        """
        require_columns(table, self.encoder.columns)
        encoded, device = self.encoder.encode(table), torch.device("cpu")
        history = History.of_windows(read_windows(table), encoded, device) if self.encoder.reads_windows else None
        correction_NQ = mean_correction(self.model, Inputs.of(encoded, history, device))
        return signed_exp(encoded.start[:, None] + correction_NQ.numpy().astype(np.float64))


@torch.no_grad()
def mean_correction(model: nn.Module, inputs: Inputs, index_N: Tensor | None = None) -> Tensor:
    """The members' mean quantiles of each row's correction, without dropout; float32 [N, Q].

    Args:
        index_N: which rows, by position; all by default.
    """
    model.eval()
    if index_N is None:
        index_N = torch.arange(len(inputs), device=inputs.numeric.device)
    return torch.cat([model(*inputs.take(index_B)).mean(0) for index_B in torch.split(index_N, _ROWS_AT_ONCE)])
