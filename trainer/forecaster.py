"""A trained model as a function from rows to dollars."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from trainer.inputs import Encoder
from trainer.level import Floats, signed_exp
from trainer.model import EnsembleMLP

_ROWS_AT_ONCE = 16_384


@dataclass(kw_only=True, slots=True, frozen=True)
class Forecaster:
    """An encoder and the model fitted on its inputs."""

    encoder: Encoder
    model: EnsembleMLP

    def predict(self, table: pa.Table) -> Floats:
        """Forecast each row, in dollars; float64, finite for every row, unknown stores and departments included.

        The label is not read and need not be in the table.

        Raises:
            FrameError: a column the model needs is missing.
        """
        rows = self.encoder.encode(table)
        correction_N = mean_correction(self.model, torch.from_numpy(rows.numeric), torch.from_numpy(rows.codes))
        return signed_exp(rows.start + correction_N.numpy().astype(np.float64))


@torch.no_grad()
def mean_correction(model: EnsembleMLP, numeric_NF: Tensor, codes_NC: Tensor) -> Tensor:
    """The members' mean correction of each row, without dropout."""
    model.eval()
    batches = zip(torch.split(numeric_NF, _ROWS_AT_ONCE), torch.split(codes_NC, _ROWS_AT_ONCE), strict=True)
    return torch.cat([model(numeric_BF, codes_BC).mean(0) for numeric_BF, codes_BC in batches])
