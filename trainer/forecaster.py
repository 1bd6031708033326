"""A trained model as a function from rows to dollars.

Shapes: N rows, M members, B rows at once, Q quantiles.
"""

import dataclasses
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from trainer.dataset import Inputs
from trainer.frame import floats, require_columns
from trainer.history import History
from trainer.inputs import Encoder
from trainer.level import Floats, signed_exp, signed_log
from trainer.quantiles import MEDIAN, QUANTILES, Spread, calibrated_spread, rescaled
from trainer.windows import read_windows

_ROWS_AT_ONCE = 16_384


@dataclass(kw_only=True, slots=True, frozen=True)
class Forecaster:
    """An encoder and the model fitted on its inputs, on the CPU.

    spread: what the model's distances of the outer quantiles from the median are multiplied by.
    """

    encoder: Encoder
    model: nn.Module
    spread: Spread = (1.0, 1.0)

    def predict(self, table: pa.Table) -> Floats:
        """Forecast each row, in dollars; float64, finite for every row, unknown stores and departments included.

        The label is not read and need not be in the table.

        Raises:
            FrameError: a column the model needs is missing.
        """
        return self.predict_quantiles(table)[:, MEDIAN]

    def predict_quantiles(self, table: pa.Table, *, block_rows: int | None = None) -> Floats:
        """The 10 %, 50 % and 90 % quantile of each row's sales, in dollars; float64 [N, 3], ascending and finite.

        The 50 % quantile is the forecast. The rest as `predict`.

        Args:
            block_rows: go through the model in blocks of just so many rows. In matrix products of one shape a row's
                terms are added in one order, so its last bits do not depend on how many rows are forecast with it.
        """
        require_columns(table, self.encoder.columns)
        encoded, device = self.encoder.encode(table), torch.device("cpu")
        history = History.of_windows(read_windows(table), encoded, device) if self.encoder.reads_windows else None
        inputs = Inputs.of(encoded, history, device)
        correction_NQ = mean_correction(self.model, inputs, block_rows=block_rows).numpy().astype(np.float64)
        return signed_exp(encoded.start[:, None] + rescaled(correction_NQ, self.spread))

    def calibrated(self, table: pa.Table, label: str) -> Self:
        """The same with outer quantiles that are right on `table`, which the model has neither seen nor is scored on.

        Raises:
            FrameError: a column is missing.
        """
        require_columns(table, [label])
        unscaled = dataclasses.replace(self, spread=(1.0, 1.0))
        quantile_NQ = signed_log(unscaled.predict_quantiles(table))
        return dataclasses.replace(self, spread=calibrated_spread(quantile_NQ, signed_log(floats(table, label))))


@torch.no_grad()
def mean_correction(
    model: nn.Module, inputs: Inputs, index_N: Tensor | None = None, *, block_rows: int | None = None, parts: int = 1
) -> Tensor:
    """The members' mean quantiles of each row's correction, without dropout; float32 [N, Q].

    Args:
        index_N: which rows, by position; all by default.
        block_rows: rows of each pass, the last one filled up.
        parts: without `block_rows`, cut each pass into so many.
    """
    if model.training:
        model.eval()
    if index_N is None:
        index_N = torch.arange(len(inputs), device=inputs.numeric.device)
    rows = len(index_N)
    if not rows:
        return inputs.numeric.new_empty(0, len(QUANTILES))
    if block_rows is not None:
        index_N = torch.cat([index_N, index_N[-1:].expand(-rows % block_rows)])
    blocks = torch.split(index_N, block_rows or -(-min(rows, _ROWS_AT_ONCE) // parts))
    return torch.cat([model(*inputs.take(index_B)).mean(0) for index_B in blocks])[:rows]
