"""What a training brings: a report of each epoch, and the best epoch's model."""

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from trainer.model import ModelConfig


@dataclass(kw_only=True, slots=True, frozen=True)
class EpochReport:
    """What one pass over the training rows brought. Losses as `trainer.objective`, scores as `trainer.metrics`.

    The last four depend on the machine. gpu_utilization: percent at the end of the epoch; memory_allocated_gb: the most
    that was allocated on the GPU, in GiB; both None without one.
    """

    epoch: int
    num_epochs: int
    training_loss: float
    validation_loss: float
    wmae: float
    rmse: float
    mae: float
    wape: float
    mape: float
    learning_rate: float
    epoch_duration_sec: float
    rows_per_second: float
    gpu_utilization: float | None
    memory_allocated_gb: float | None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(kw_only=True, slots=True, frozen=True)
class Fitted:
    """The model of the epoch `best`, on the CPU, and the optimizer's state after that epoch."""

    model: nn.Module
    config: ModelConfig
    optimizer_state: dict[str, Any]
    best: EpochReport
