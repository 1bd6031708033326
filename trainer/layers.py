"""Layers that both models are made of."""

import torch
from torch import Tensor, nn


class ParallelLinear(nn.Module):
    """P linear layers side by side, as one batched product: x_PBD to y_PBH. He et al. 2015 initialisation."""

    def __init__(self, copies: int, size: int, units: int) -> None:
        super().__init__()
        self.weight_PDH = nn.Parameter(torch.randn(copies, size, units) * (2 / size) ** 0.5)
        self.bias_P1H = nn.Parameter(torch.zeros(copies, 1, units))

    def forward(self, x_PBD: Tensor) -> Tensor:
        return torch.baddbmm(self.bias_P1H, x_PBD, self.weight_PDH)
