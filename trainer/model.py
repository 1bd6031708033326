"""The network: several small perceptrons side by side, each with its own category embeddings.

Shapes: M members, B rows, F numeric inputs, C categories, E embedding size, D inputs of a layer, H units of a layer.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

_EMBEDDING_STD = 0.1
_OUTPUT_SCALE = 0.01


@dataclass(kw_only=True, slots=True, frozen=True)
class ModelConfig:
    """Everything needed to rebuild an `EnsembleMLP`.

    category_sizes: codes of each category, the unknown included.
    """

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

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.members = config.members
        # Code 0, unknown, is the zero vector: near the mean of the others, and never trained.
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, config.members * config.embedding_dim, padding_idx=0) for size in config.category_sizes
        )
        for parameter in self.embeddings.parameters():
            # A new embedding is of unit variance, 0 for the unknown.
            parameter.detach().mul_(_EMBEDDING_STD)
        width = config.numeric_width + len(config.category_sizes) * config.embedding_dim
        sizes = (width, *config.hidden_dims, 1)
        layers = [MemberLinear(config.members, size, units) for size, units in pairwise(sizes)]
        # Training starts at the starting point itself: a correction of about 0.
        layers[-1].weight_MDH.detach().mul_(_OUTPUT_SCALE)
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, numeric_BF: Tensor, codes_BC: Tensor) -> Tensor:
        """The correction each member proposes, correction_MB."""
        numeric_MBF = numeric_BF.expand(self.members, *numeric_BF.shape)
        embedded = [
            embedding(codes_B).unflatten(1, (self.members, -1)).transpose(0, 1)
            for embedding, codes_B in zip(self.embeddings, codes_BC.unbind(1), strict=True)
        ]
        x_MBD = torch.cat([numeric_MBF, *embedded], dim=2)
        for layer in self.layers[:-1]:
            x_MBD = self.dropout(torch.relu(layer(x_MBD)))
        correction_MB1: Tensor = self.layers[-1](x_MBD)
        return correction_MB1.squeeze(2)


class MemberLinear(nn.Module):
    """One linear layer per member, as one batched product. He et al. 2015 initialisation."""

    def __init__(self, members: int, size: int, units: int) -> None:
        super().__init__()
        self.weight_MDH = nn.Parameter(torch.randn(members, size, units) * (2 / size) ** 0.5)
        self.bias_M1H = nn.Parameter(torch.zeros(members, 1, units))

    def forward(self, x_MBD: Tensor) -> Tensor:
        return torch.baddbmm(self.bias_M1H, x_MBD, self.weight_MDH)
