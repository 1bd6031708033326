"""The training loop, the same on one process and on many, from its beginning or from a checkpoint."""

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from trainer.checkpoint import CheckpointStore, State, load_together
from trainer.dataset import Rows
from trainer.distributed import World, agreed
from trainer.errors import Interrupted
from trainer.learner import Learner
from trainer.model import ModelConfig
from trainer.outcome import EpochReport, Fitted
from trainer.recovery import Adjustments, DivergenceFoundError
from trainer.report import Report
from trainer.rng import restore_rng, rng_state
from trainer.sampling import Batches
from trainer.schedule import warm_cosine
from trainer.signals import StopRequest
from trainer.spec import TrainSpec
from trainer.usage import device_usage
from trainer.validation import validate

_CHECK_EVERY = 50
_EXPLOSION_FACTOR = 10.0
_PROGRESS_SECONDS = 1.0

OnStep = Callable[[int, nn.Module], None]


@dataclass(kw_only=True, slots=True, frozen=True)
class Surroundings:
    """What a training runs in.

    stop: asks it to save its state and end.
    on_step: called after every step with the number of steps so far and the model.
    """

    world: World
    report: Report
    checkpoints: CheckpointStore
    stop: StopRequest
    on_step: OnStep = lambda _step, _model: None


class Training:
    """One try at a training, from the last checkpoint if there is one.

    Attributes:
        resumed: whether there was one.
    """

    def __init__(
        self,
        config: ModelConfig,
        batches: Batches,
        validation: Rows,
        spec: TrainSpec,
        around: Surroundings,
        adjustments: Adjustments,
    ) -> None:
        self._config, self._batches, self._validation = config, batches, validation
        self._spec, self._around, self._world = spec, around, around.world
        self._adjustments = adjustments
        torch.manual_seed(spec.seed)
        self.learner = Learner(config, spec, self._world, adjustments)
        if self._world.rank:
            torch.manual_seed(spec.seed + self._world.rank)  # so that each process drops other units
        self._epoch, self._rows_done = 1, 0
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self._world.device)
        self._checked = (0, 0.0)  # the epoch's rows, and this process's sum of their losses, at the last look
        self._lowest_loss = math.inf
        self._history: list[EpochReport] = []
        self._best: State | None = None
        self.resumed = self._load()
        self._total_steps = spec.num_epochs * batches.steps_per_epoch
        self._begun = (time.perf_counter(), self._step)
        self._progress_sent = 0.0

    @property
    def _step(self) -> int:
        """Steps since the beginning at the present batch size."""
        return (self._epoch - 1) * self._batches.steps_per_epoch + self._rows_done // self._batches.batch_size

    def position(self) -> dict[str, int]:
        """The epoch, and the steps since the beginning."""
        return {"epoch": self._epoch, "step": self.learner.steps}

    def finish(self) -> tuple[Fitted, list[EpochReport]]:
        """Train until the epochs are over or validation WMAE has stopped improving.

        Returns:
            The best epoch's model, and the reports of all epochs.

        Raises:
            DivergenceFoundError: the loss is NaN or has exploded, or the score is not finite; on all processes alike.
            Interrupted: a process was asked to stop; on all alike, after the same step.
            CheckpointWriteError: a checkpoint could not be written.
            torch.OutOfMemoryError: on this process.
        """
        while not self._is_over():
            self._train_epoch()
        assert self._best is not None  # noqa: S101 - an epoch is over
        best, model = self._best, copy.deepcopy(self.learner.average).cpu()
        model.load_state_dict(best["MODEL_STATE"])
        fitted = Fitted(
            model=model,
            config=self._config,
            optimizer_state=best["OPTIMIZER_STATE"],
            best=self._history[best["EPOCH"] - 1],
        )
        return fitted, self._history

    def _is_over(self) -> bool:
        # Every process has the same summed scores, so all of them stop here or none does.
        epochs = len(self._history)
        return epochs == self._spec.num_epochs or (
            self._best is not None and epochs - self._best["EPOCH"] >= self._spec.early_stopping_patience
        )

    def _train_epoch(self) -> None:
        started, first_row = time.perf_counter(), self._rows_done
        for batch in self._batches.epoch(self._epoch, self._rows_done):
            stopping = self._ask_to_stop()
            self._loss_sum += self.learner.step(batch, self._learning_rate(self._step)) * self._batches.batch_size
            self._rows_done += self._batches.batch_size
            self._around.on_step(self.learner.steps, self.learner.model)
            self._send_progress()
            stop = stopping()  # before anything waits for a device, which may itself wait for a process that is dead
            if self.learner.steps % _CHECK_EVERY == 0:
                self._check_loss()
            if stop:
                self._interrupt()
            if self.learner.steps % self._spec.checkpoint_every == 0:
                self._save()
        self._check_loss()
        report = self._evaluated(started, self._rows_done - first_row)
        if not math.isfinite(report.wmae):
            raise DivergenceFoundError(f"the validation WMAE of epoch {self._epoch} is {report.wmae:g}")
        self._history.append(report)
        if self._best is None or report.wmae < self._history[self._best["EPOCH"] - 1].wmae:
            self._best = self._snapshot(report)
        self._epoch, self._rows_done = self._epoch + 1, 0
        self._loss_sum.zero_()
        self._checked = (0, 0.0)
        self._around.report.event("epoch", {**report.to_dict(), **self._progress()})
        self._save()

    def _learning_rate(self, step: int) -> float:
        factor = warm_cosine(step, self._total_steps) * self._adjustments.learning_rate_factor
        return self._spec.learning_rate * factor

    def _ask_to_stop(self) -> Callable[[], bool]:
        """Begin to ask all processes while they compute; the answer, the same on all, comes when it is called for."""
        if self._world.size == 1:
            return lambda: self._around.stop.made
        wanted = torch.tensor([int(self._around.stop.made)])
        work = dist.all_reduce(wanted, async_op=True)

        def answer() -> bool:
            if work is not None:
                work.wait()
            return bool(wanted)

        return answer

    def _check_loss(self) -> None:
        """Look whether the mean loss since the last look is finite and has not exploded."""
        checked_rows, checked_sum = self._checked
        if self._rows_done == checked_rows:
            return
        # A process whose device is full has left in the step before: gloo tells, where NCCL would wait for it.
        self._world.barrier()
        loss_sum = self._loss_sum.item()
        self._checked = (self._rows_done, loss_sum)
        mean = (loss_sum - checked_sum) / (self._rows_done - checked_rows)
        loss, trouble = self._world.total(np.array([mean, self.learner.trouble])) / self._world.size
        if trouble or not math.isfinite(loss):
            raise DivergenceFoundError(f"a loss or gradient was not finite by step {self.learner.steps}")
        if loss > _EXPLOSION_FACTOR * self._lowest_loss:
            raise DivergenceFoundError(
                f"the loss rose from {self._lowest_loss:.4g} to {loss:.4g} by step {self.learner.steps}"
            )
        self._lowest_loss = min(self._lowest_loss, float(loss))

    def _evaluated(self, started: float, rows: int) -> EpochReport:
        """The averaged model's scores on the validation rows, after all rows of the epoch."""
        (loss_sum,) = self._world.total(np.array([self._loss_sum.item()]))
        validation_loss, validation_scores = validate(
            self.learner.average, self._validation, self._world, parts=self._adjustments.parts_factor
        )
        elapsed = time.perf_counter() - started
        return EpochReport(
            epoch=self._epoch,
            num_epochs=self._spec.num_epochs,
            training_loss=float(loss_sum) / (self._rows_done * self._world.size),
            validation_loss=validation_loss,
            **validation_scores,
            learning_rate=self._learning_rate(self._step - 1),  # the last step's
            epoch_duration_sec=elapsed,
            rows_per_second=rows / elapsed,
            **device_usage(self._world.device),
        )

    def _snapshot(self, report: EpochReport) -> State:
        return {"EPOCH": report.epoch, **self.learner.snapshot()}

    def _interrupt(self) -> None:
        self._save()
        self._around.report.event("interrupted", self.position())
        raise Interrupted(f"stopped by a signal after step {self.learner.steps}; start again to go on from there")

    def _progress(self) -> dict[str, Any]:
        now, (begun, first_step) = time.perf_counter(), self._begun
        per_step = (now - begun) / max(1, self._step - first_step)
        left = 0 if self._is_over() else self._total_steps - self._step
        return {
            "progressPercentage": round(100 * (1 - left / self._total_steps)),
            "estimatedRemainingSeconds": round(per_step * left),
            "currentStep": self._step,
            "totalSteps": self._total_steps,
        }

    def _send_progress(self) -> None:
        if (now := time.perf_counter()) - self._progress_sent >= _PROGRESS_SECONDS:
            self._progress_sent = now
            fields = {"epoch": self._epoch, "num_epochs": self._spec.num_epochs, **self._progress()}
            self._around.report.event("progress", fields)

    def _save(self) -> None:
        """Write a checkpoint, all processes together, if the loss is good."""
        self._check_loss()
        own = {"rng": rng_state(self._world.device), "loss_sum": self._loss_sum.item()}
        of_ranks = self._world.gather(json.dumps(own))
        state = {
            **self.learner.state(),
            "EPOCH": self._epoch,
            "ROWS_DONE": self._rows_done,
            "RANKS": of_ranks,
            "LOWEST_LOSS": self._lowest_loss,
            "HISTORY": [report.to_dict() for report in self._history],
        }
        with agreed(self._world):
            if self._world.rank == 0:
                self._around.checkpoints.save(state, self._best)

    def _load(self) -> bool:
        """Take up the last checkpoint's state, if there is one."""
        loaded = load_together(self._around.checkpoints, self._world)
        if loaded is None:
            return False
        state, self._best = loaded
        self.learner.load_state(state)
        self._epoch, self._rows_done = state["EPOCH"], state["ROWS_DONE"]
        self._lowest_loss = state["LOWEST_LOSS"]
        self._history = [EpochReport(**fields) for fields in state["HISTORY"]]
        ranks = [json.loads(each) for each in state["RANKS"]]
        if len(ranks) == self._world.size:
            own = ranks[self._world.rank]
            restore_rng(own["rng"], self._world.device)
            self._loss_sum.fill_(own["loss_sum"])
        elif self._world.rank == 0:
            # Another number of processes: the mean is what counts.
            self._loss_sum.fill_(sum(each["loss_sum"] for each in ranks) * self._world.size / len(ranks))
        self._checked = (self._rows_done, self._loss_sum.item())
        return True
