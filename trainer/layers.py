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
        if self.weight_PDH.shape[2] == 1:
            # On CPUs a matrix product of a single column takes several times longer, backwards too.
            return (x_PBD * self.weight_PDH.flatten(1).unsqueeze(1)).sum(2, keepdim=True) + self.bias_P1H
        return torch.baddbmm(self.bias_P1H, x_PBD, self.weight_PDH)
