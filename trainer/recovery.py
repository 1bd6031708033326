"""What a training changes about itself to survive, kept beside its checkpoints.

Two things are cured by going back to the last checkpoint and on with something changed: a loss that is NaN or explodes
(half the learning rate) and a device without memory (smaller parts of a batch, gradient checkpointing). A change holds
from then on, also for processes that are started again.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import torch

from trainer.checkpoint import write_patiently
from trainer.distributed import World
from trainer.errors import DivergedError, OutOfDeviceMemoryError

MAX_ROLLBACKS = 3
# What CUDA, HIP and their libraries say of it in errors that are not torch.OutOfMemoryError.
_FULL_DEVICE_SAID = ("error: out of memory", "STATUS_ALLOC_FAILED")


class DivergenceFoundError(Exception):
    """The loss is NaN or has exploded. Never leaves `trainer.fitting`."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Adjustments:
    """Changes to what the spec asks for, and what it left open.

    loading: how the frame is loaded, "memory" or "stream", once that is decided: the order of rows depends on it.
    workers: loading processes of each training process, likewise; 0 while there is nothing to stream.
    rollbacks: how often the loss diverged; each halves the learning rate.
    learning_rate: the spec's, which they halved.
    memory_splits: how often the device ran out of memory; each halves the part of a batch that is computed at a time.
        The step still averages the gradients of the whole batch, so what is learned does not change.
    """

    loading: str = ""
    workers: int = 0
    rollbacks: int = 0
    learning_rate: float = 0.0
    memory_splits: int = 0

    @property
    def learning_rate_factor(self) -> float:
        """What the learning rate is multiplied by."""
        return float(0.5**self.rollbacks)

    @property
    def parts_factor(self) -> int:
        """Into how many parts each part that the spec asks for is cut."""
        return int(2**self.memory_splits)

    @property
    def saves_memory(self) -> bool:
        """Whether gradient checkpointing is on, whatever the spec says."""
        return self.memory_splits > 0

    def for_learning_rate(self, learning_rate: float) -> Self:
        """The same for a spec of this learning rate. Roll-backs were of the one before, if that was another."""
        rollbacks = self.rollbacks if learning_rate == self.learning_rate else 0
        return replace(self, learning_rate=learning_rate, rollbacks=rollbacks)

    def after_divergence(self, reason: str, dtype: torch.dtype) -> Self:
        """For the next try at half the learning rate.

        Args:
            dtype: what was computed in; what overflows in float16 may do so at any learning rate.

        Raises:
            DivergedError: there were enough tries.
        """
        if self.rollbacks == MAX_ROLLBACKS:
            otherwise = ', or set amp_dtype to "bfloat16" or use_amp to false' if dtype == torch.float16 else ""
            raise DivergedError(
                f"{reason} once more after {MAX_ROLLBACKS} roll-backs, at {self.learning_rate_factor:g} times the "
                "learning rate of the spec: look at the frame's extremes, or lower learning_rate further"
                f"{otherwise}"
            )
        return replace(self, rollbacks=self.rollbacks + 1)

    def after_out_of_memory(self, part_rows: int) -> Self:
        """For the next try with half as many rows at a time.

        Raises:
            OutOfDeviceMemoryError: `part_rows`, those of the last try, cannot be halved.
        """
        if part_rows < 2:
            raise OutOfDeviceMemoryError(
                f"the device has too little memory for {part_rows} row at a time: use a smaller model or another device"
            )
        return replace(self, memory_splits=self.memory_splits + 1)

    def save(self, file: Path) -> None:
        """Keep them for the next start.

        Raises:
            CheckpointWriteError: they could not be written.
        """
        write_patiently(file, self.to_json().encode())

    def to_json(self) -> str:
        """The JSON document."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, file: Path) -> Self:
        """Those kept in `file`, or none at all."""
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else cls()


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that the device has too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in _FULL_DEVICE_SAID)


@contextmanager
def device_has_room_for(what: str, otherwise: str) -> Iterator[None]:
    """A block whose need of memory does not depend on how a batch is computed.

    Raises:
        OutOfDeviceMemoryError: the device has too little memory for `what`; says to do `otherwise`.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).splitlines()[0]
        raise OutOfDeviceMemoryError(f"the device has too little memory for {what}: {otherwise} ({message})") from error


def adjustments_together(file: Path, world: World) -> Adjustments:
    """Those that the first process finds in `file`, on all processes."""
    kept = Adjustments.load(file).to_json() if world.rank == 0 else ""
    return Adjustments(**json.loads(world.broadcast(kept.encode())))
