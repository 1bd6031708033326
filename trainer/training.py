"""The training loop, the same on one process and on many.

Shapes: B rows of one process's share of a batch, N rows, Q quantiles.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.dataset import Dataset
from trainer.distributed import World
from trainer.forecaster import mean_correction
from trainer.level import signed_exp
from trainer.metrics import score_sums, scores
from trainer.model import ModelConfig, build_model, model_config
from trainer.objective import loss as batch_loss
from trainer.quantiles import MEDIAN
from trainer.spec import TrainSpec

_MIN_BATCH = 64
_MIN_STEPS_PER_EPOCH = 100
_WARMUP_SHARE = 0.05
_AVERAGING_DECAY = 0.995


@dataclass(kw_only=True, slots=True, frozen=True)
class EpochReport:
    """What one pass over the training rows brought. Losses as `trainer.objective`, scores as `trainer.metrics`."""

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

    def to_dict(self) -> dict[str, float]:
        """The fields by name."""
        return asdict(self)


@dataclass(kw_only=True, slots=True, frozen=True)
class Fitted:
    """The model of the epoch `best`, on the CPU, and the optimizer's state after that epoch."""

    model: nn.Module
    config: ModelConfig
    optimizer_state: dict[str, Any]
    best: EpochReport


def fit(
    data: Dataset, spec: TrainSpec, world: World, on_epoch: Callable[[EpochReport], None]
) -> tuple[Fitted, list[EpochReport]]:
    """Train until the epochs are over or validation WMAE has stopped improving.

    The model that is validated and returned is an exponential moving average of the weights.

    Returns:
        The best epoch's model, and the reports of all epochs.
    """
    torch.manual_seed(spec.seed)
    run = _Run(data, spec, world)
    history = [run.epoch(1)]
    on_epoch(history[-1])
    fitted = run.fitted(history[-1])
    # Every process sees the same summed scores, so all of them stop here or none does.
    while len(history) < spec.num_epochs and len(history) - fitted.best.epoch < spec.early_stopping_patience:
        history.append(run.epoch(len(history) + 1))
        on_epoch(history[-1])
        if history[-1].wmae < fitted.best.wmae:
            fitted = run.fitted(history[-1])
    return fitted, history


class _Run:
    """The state of one training."""

    def __init__(self, data: Dataset, spec: TrainSpec, world: World) -> None:
        self.data, self.spec, self.world = data, spec, world
        self.config = model_config(spec, data.encoder)
        self.model = build_model(self.config).to(world.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.parallel: nn.Module = DistributedDataParallel(self.model) if world.size > 1 else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
        )
        self.batch_size = global_batch_size(len(data.training), spec.batch_size, world.size)
        self.steps_per_epoch = math.ceil(len(data.training) / self.batch_size)
        self.steps = 0
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, _warm_cosine(spec.num_epochs * self.steps_per_epoch)
        )

    def epoch(self, epoch: int) -> EpochReport:
        started = time.perf_counter()
        training_loss = self._train(epoch)
        validation_loss, validation_scores = self._validate()
        elapsed = time.perf_counter() - started
        return EpochReport(
            epoch=epoch,
            num_epochs=self.spec.num_epochs,
            training_loss=training_loss,
            validation_loss=validation_loss,
            **validation_scores,
            learning_rate=float(self.schedule.get_last_lr()[0]),
            epoch_duration_sec=elapsed,
            rows_per_second=self.steps_per_epoch * self.batch_size / elapsed,
        )

    def fitted(self, report: EpochReport) -> Fitted:
        return Fitted(
            model=copy.deepcopy(self.average).cpu(),
            config=self.config,
            optimizer_state=copy.deepcopy(self.optimizer.state_dict()),
            best=report,
        )

    def _train(self, epoch: int) -> float:
        """One pass over the training rows; their mean loss."""
        rows, device = self.data.training, self.world.device
        self.parallel.train()
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        for rows_B in _shares(len(rows), self.batch_size, self.spec.seed + epoch, self.world):
            batch = rows.batch(rows_B.to(device))
            loss = batch_loss(self.parallel(*batch.inputs), batch)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.spec.grad_clip_norm)
            self.optimizer.step()
            self.schedule.step()
            self.steps += 1
            self._move_average()
            loss_sum += loss.detach()
        total = self.world.total(np.array([loss_sum.item()]))
        return float(total[0]) / (self.steps_per_epoch * self.world.size * self.spec.members)

    def _move_average(self) -> None:
        # Early on the average is short, or it would remember the initial weights.
        decay = min(_AVERAGING_DECAY, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def _validate(self) -> tuple[float, dict[str, float]]:
        """The averaged model's mean loss and its scores on the validation rows, each process taking a share."""
        rows = self.data.validation
        share = slice(self.world.rank, None, self.world.size)
        index_N = torch.arange(len(rows), device=self.world.device)[share]
        correction_NQ = mean_correction(self.average, rows.inputs, index_N)
        loss_sum = batch_loss(correction_NQ[None], rows.batch(index_N)).double() * len(index_N)
        correction_N = correction_NQ[:, MEDIAN]
        forecast_N = signed_exp(rows.start[share] + correction_N.cpu().numpy().astype(np.float64))
        sums = score_sums(rows.actual[share], forecast_N, rows.is_holiday[share])
        loss_total, *score_totals = self.world.total(np.array([loss_sum.item(), *sums]))
        return float(loss_total) / len(rows), scores(np.array(score_totals))


def global_batch_size(rows: int, largest: int, processes: int) -> int:
    """Rows per step: a power of two that gives a small frame enough steps, at most `largest`, in equal shares."""
    wanted = max(_MIN_BATCH, 1 << int(math.log2(max(1, rows / _MIN_STEPS_PER_EPOCH))))
    return math.ceil(min(largest, wanted) / processes) * processes


def _shares(rows: int, batch_size: int, seed: int, world: World) -> Iterator[Tensor]:
    """This process's rows of each batch of one epoch, in a new order.

    All processes draw the same order and cut their own share from it. The order runs on into its beginning, so that
    every batch is full and every process takes equally many steps.
    """
    order_N = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    steps = math.ceil(rows / batch_size)
    order_N = order_N.repeat(math.ceil(steps * batch_size / rows))
    share = batch_size // world.size
    for step in range(steps):
        start = step * batch_size + world.rank * share
        yield order_N[start : start + share]


def _warm_cosine(steps: int) -> Callable[[int], float]:
    """Learning rate factor by step: a short linear rise, then half a cosine down to 0."""
    warmup = max(1, int(steps * _WARMUP_SHARE))
    return lambda step: min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2
