"""A model that learns from one batch after another: precision, memory, gradients and the average of the weights.

Shapes: B rows of this process's share of a batch.
"""

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from trainer.dataset import Batch
from trainer.distributed import World
from trainer.model import ModelConfig, build_model
from trainer.objective import loss as batch_loss
from trainer.recovery import Adjustments
from trainer.spec import TrainSpec

_AVERAGING_DECAY = 0.995


class Learner:
    """Model, average, optimizer and loss scaler.

    The model that is validated and published is `average`, an exponential moving average of the weights.

    Attributes:
        steps: optimizer steps since the beginning.
    """

    def __init__(self, config: ModelConfig, spec: TrainSpec, world: World, adjustments: Adjustments) -> None:
        self._spec, self._device = spec, world.device
        self._parts = spec.accumulation_steps * adjustments.parts_factor
        self.model = build_model(config).to(world.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        if spec.gradient_checkpointing or adjustments.saves_memory:
            _recompute_blocks(self.model)
        self._parallel: nn.Module = self.model
        if world.size > 1:
            world.barrier()  # of gloo, which tells if a process had no memory for its model; NCCL would wait for it
            self._parallel = DistributedDataParallel(self.model, process_group=world.gradients)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
        )
        self._dtype = amp_dtype(spec, world.device)
        self._scaler = torch.amp.GradScaler(world.device.type, enabled=self._dtype == torch.float16)
        self.steps = 0
        self._not_finite = torch.zeros((), dtype=torch.bool, device=world.device)

    @property
    def trouble(self) -> bool:
        """Whether a loss or a gradient was not finite, in float16 at every scale down to 1. Waits for the device."""
        return bool(self._not_finite) or (self._scaler.is_enabled() and self._scaler.get_scale() < 1)

    def part_rows(self, rows: int) -> int:
        """Rows computed at a time of a batch of so many."""
        return -(-rows // self._parts)

    def step(self, batch: Batch, learning_rate: float) -> Tensor:
        """Learn from a batch; its loss per row and member, a float64 on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self._parallel.train()
        self.optimizer.zero_grad()
        loss = torch.zeros((), dtype=torch.float64, device=self._device)
        parts = list(split(batch, self._parts))
        for number, part in enumerate(parts, start=1):
            last = number == len(parts)
            # Gradients are exchanged once per step, with those of the last part.
            with nullcontext() if last or self._parallel is self.model else self._parallel.no_sync():  # type: ignore[operator]
                with torch.autocast(self._device.type, dtype=self._dtype, enabled=self._spec.use_amp):
                    prediction_MBQ = self._parallel(*part.inputs)
                share = len(part.target) / len(batch.target)
                part_loss = batch_loss(prediction_MBQ.float(), part.target, part.weight) * share
                self._scaler.scale(part_loss).backward()
            loss += part_loss.detach() / len(prediction_MBQ)
        self._scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._spec.grad_clip_norm)
        # A loss scaler finds its scale by overflowing now and then, and skips such steps.
        gradients_finite = torch.isfinite(norm) | self._scaler.is_enabled()
        self._not_finite |= ~(torch.isfinite(loss) & gradients_finite)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.steps += 1
        self._move_average()
        return loss

    def _move_average(self) -> None:
        # Early on the average is short, or it would remember the initial weights.
        decay = min(_AVERAGING_DECAY, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def state(self) -> dict[str, Any]:
        """All that a later start needs to go on as if there had been none."""
        return {
            "MODEL_STATE": self.model.state_dict(),
            "AVERAGE_STATE": self.average.state_dict(),
            "OPTIMIZER_STATE": self.optimizer.state_dict(),
            "SCALER_STATE": self._scaler.state_dict(),
            "STEPS": self.steps,
        }

    def snapshot(self) -> dict[str, Any]:
        """A copy, on the CPU, of what is published of the present state."""
        state = {"MODEL_STATE": self.average.state_dict(), "OPTIMIZER_STATE": self.optimizer.state_dict()}
        copied: dict[str, Any] = _copied_to_cpu(state)
        return copied

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.model.load_state_dict(state["MODEL_STATE"])
        self.average.load_state_dict(state["AVERAGE_STATE"])
        self.optimizer.load_state_dict(state["OPTIMIZER_STATE"])
        if state["SCALER_STATE"] and self._scaler.is_enabled():
            self._scaler.load_state_dict(state["SCALER_STATE"])
        self.steps = state["STEPS"]


def amp_dtype(spec: TrainSpec, device: torch.device) -> torch.dtype:
    """What to compute in: float32 unless `use_amp`; then bfloat16, or float16 on GPUs without it."""
    if not spec.use_amp:
        return torch.float32
    if spec.amp_dtype != "auto":
        return torch.bfloat16 if spec.amp_dtype == "bfloat16" else torch.float16
    lacks_it = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if lacks_it else torch.bfloat16


def split(batch: Batch, parts: int) -> Iterator[Batch]:
    """The batch in at most so many consecutive parts of about equal size."""
    size = -(-len(batch.target) // parts)
    numeric_BF, codes_BC, history_BTH = batch.inputs
    for first in range(0, len(batch.target), size):
        rows = slice(first, first + size)
        history = None if history_BTH is None else history_BTH[rows]
        inputs = (numeric_BF[rows], codes_BC[rows], history)
        yield Batch(inputs=inputs, target=batch.target[rows], weight=batch.weight[rows])


def _recompute_blocks(model: nn.Module) -> None:
    """Keep the inputs of the model's blocks alone for the backward pass, and compute what is inside them again."""
    for child in model.children():
        for block in child if isinstance(child, nn.ModuleList) else (child,):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def _copied_to_cpu(state: Any) -> Any:
    """A copy of a state, whose tensors may be anywhere in its dictionaries and lists."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        copied = copy.copy(state)  # with what a module's state says of its versions
        copied.update({name: _copied_to_cpu(value) for name, value in state.items()})
        return copied
    if isinstance(state, list):
        return [_copied_to_cpu(value) for value in state]
    return copy.deepcopy(state)
