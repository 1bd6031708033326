"""Several small perceptrons side by side, each with its own category embeddings.

Shapes: M members, B rows, F numeric inputs, C categories, V codes of a category, E embedding size, D inputs of a
layer, H units of a layer, U those of all members, Q quantiles.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.layers import ParallelLinear
from trainer.quantiles import QUANTILES, ordered

_EMBEDDING_STD = 0.1
_OUTPUT_SCALE = 0.01
_SPREAD_UNITS = 32


@dataclass(kw_only=True, slots=True, frozen=True)
class MLPConfig:
    """Everything needed to rebuild an `EnsembleMLP`.

    category_sizes: codes of each category, the unknown included.
    """

    model_type: ClassVar[str] = "mlp"

    numeric_width: int
    category_sizes: tuple[int, ...]
    embedding_dim: int
    hidden_dims: tuple[int, ...]
    members: int
    dropout: float


class EnsembleMLP(nn.Module):
    """Predicts the correction to a row's starting point, in signed-log dollars.

    The members share nothing but the pass over the data; their mean is the forecast (Lakshminarayanan et al. 2017,
    "Deep ensembles").
    """

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.members, self._embedding_dim = config.members, config.embedding_dim
        # Code 0, unknown, is the zero vector: near the mean of the others, and never trained.
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, config.members * config.embedding_dim, padding_idx=0) for size in config.category_sizes
        )
        for parameter in self.embeddings.parameters():
            # A new embedding is of unit variance, 0 for the unknown.
            parameter.detach().mul_(_EMBEDDING_STD)
        width = config.numeric_width + len(config.category_sizes) * config.embedding_dim
        sizes = (width, *config.hidden_dims)
        self.layers = nn.ModuleList(ParallelLinear(config.members, size, units) for size, units in pairwise(sizes))
        self.median = ParallelLinear(config.members, sizes[-1], 1)
        # Training starts at the starting point itself: a correction of about 0.
        self.median.weight_PDH.detach().mul_(_OUTPUT_SCALE)
        self.spread = Spread(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, numeric_BF: Tensor, codes_BC: Tensor, _history_BTH: Tensor | None = None) -> Tensor:
        """The quantiles of the correction that each member proposes, prediction_MBQ; the history is not looked at."""
        x_MBD = self.dropout(torch.relu_(self._first_layer(numeric_BF, codes_BC)))
        for layer in self.layers[1:]:
            x_MBD = self.dropout(torch.relu_(layer(x_MBD)))
        return ordered(self.median(x_MBD), self.spread(numeric_BF, codes_BC))

    def _first_layer(self, numeric_BF: Tensor, codes_BC: Tensor) -> Tensor:
        """What ``layers[0]`` makes of the numbers with the categories' embeddings beside them, x_MBH."""
        weight_MDH, bias_M1H = self.layers[0].parameters()
        sizes = [numeric_BF.shape[1], *[self._embedding_dim] * len(self.embeddings)]
        weight_MFH, *weights = weight_MDH.split(sizes, dim=1)
        x_MBH = torch.baddbmm(bias_M1H, numeric_BF.expand(self.members, -1, -1), weight_MFH)
        for category in zip(self.embeddings.parameters(), weights, codes_BC.unbind(1), strict=True):
            x_MBH += self._of_category(*category)
        return x_MBH

    def _of_category(self, embedding_VU: Tensor, weight_MEH: Tensor, codes_B: Tensor) -> Tensor:
        """An embedding is multiplied by its weights once per code where that is faster and as exact.

        That is on a CPU in float32, where there are more rows than codes. In 16 bits a code's gradient would be the sum
        of 16-bit numbers, one for each of its rows; and on a GPU that sum would be in another order each time.
        """
        device = codes_B.device.type
        once_per_code = device == "cpu" and not torch.is_autocast_enabled(device) and len(embedding_VU) < len(codes_B)
        if once_per_code:
            embedding_VU = torch.cat([embedding_VU[:1].detach(), embedding_VU[1:]])
        else:
            embedding_VU = functional.embedding(codes_B, embedding_VU, padding_idx=0)
        product_MVH = embedding_VU.unflatten(1, (self.members, -1)).transpose(0, 1) @ weight_MEH
        return product_MVH.index_select(1, codes_B) if once_per_code else product_MVH


class Spread(nn.Module):
    """How far the outer quantiles are from the median: a small network of its own, one for all members.

    What tells large errors from small ones is not what tells high sales from low ones; and the members' medians learn
    as if it were not there.
    """

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, _SPREAD_UNITS, padding_idx=0) for size in config.category_sizes
        )
        for parameter in self.embeddings.parameters():
            parameter.detach().mul_(_EMBEDDING_STD)
        self.input = nn.Linear(config.numeric_width, _SPREAD_UNITS)
        self.out = nn.Linear(_SPREAD_UNITS, len(QUANTILES) - 1)

    def forward(self, numeric_BF: Tensor, codes_BC: Tensor) -> Tensor:
        """spread_B2, for `trainer.quantiles.ordered`."""
        x_BH = self.input(numeric_BF)
        for embedding, codes_B in zip(self.embeddings, codes_BC.unbind(1), strict=True):
            x_BH = x_BH + embedding(codes_B)
        spread_B2: Tensor = self.out(torch.relu(x_BH))
        return spread_B2
