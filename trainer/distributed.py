"""The processes of one training and what they tell each other.

Two groups: gloo on CPU tensors for decisions, and one for gradients (`trainer.gradients`).
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from trainer import errors
from trainer.errors import CollectiveError, TrainerError, TrainingFailure
from trainer.joining import store_of_attempt
from trainer.level import Floats
from trainer.spec import TrainSpec

_LONG_WAIT = timedelta(days=1)


def env_rank() -> int:
    """This process's rank as its launcher set it; 0 for a process on its own."""
    return int(os.environ.get("RANK", "0"))


@dataclass(kw_only=True, slots=True, frozen=True)
class World:
    """This process among `size`. Every method must be called by all processes alike.

    gradients: the group that gradients are averaged in; None for a process on its own, and until `trainer.gradients`
        gives it.
    """

    rank: int
    size: int
    device: torch.device
    gradients: dist.ProcessGroup | None = None

    def total(self, values: Floats) -> Floats:
        """The element-wise sum over all processes, the same on each."""
        if self.size == 1:
            return values
        summed = torch.as_tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        return np.asarray(summed.numpy(), dtype=np.float64)

    def any(self, condition: bool) -> bool:
        """Whether the condition holds on any process."""
        return bool(self.total(np.array([float(condition)]))[0])

    def gather(self, text: str) -> list[str]:
        """Every process's text, in the order of ranks."""
        if self.size == 1:
            return [text]
        texts = [""] * self.size
        dist.all_gather_object(texts, text)
        return texts

    def broadcast(self, content: bytes) -> bytes:
        """The first process's bytes."""
        if self.size == 1:
            return content
        length = torch.tensor([len(content)])
        dist.broadcast(length, src=0)
        received = torch.empty(int(length), dtype=torch.uint8)
        if self.rank == 0:
            received.copy_(torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[: len(content)])
        dist.broadcast(received, src=0)
        return received.numpy().tobytes()

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def leave(self) -> None:
        """Close the groups. Only where nothing has gone wrong: NCCL waits here for all processes."""
        if self.size > 1:
            dist.destroy_process_group()


@contextmanager
def joined_world(spec: TrainSpec) -> Iterator[World]:
    """Join the processes torchrun started, or be alone if it did not start this one.

    Whoever is done leaves the world it gives; one that cannot, `end_process`.

    Raises:
        CollectiveError: a process died or did not answer within `timeout_sec`, here or inside the `with` block.
    """
    rank, size = env_rank(), int(os.environ.get("WORLD_SIZE", "1"))
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(rank=rank, size=size, device=device)
        return
    try:
        timeout = timedelta(seconds=spec.timeout_sec)
        store, _, _ = next(rendezvous("env://", timeout=timeout))
        store = store_of_attempt(store, rank, size, timeout)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timeout)
        check_sum(None, torch.device("cpu"))
        yield World(rank=rank, size=size, device=device)
    except RuntimeError as error:
        if isinstance(error, TrainingFailure) or not _is_collective(error):
            raise
        raise CollectiveError(
            f"rank {rank} lost the other processes: {str(error).splitlines()[0]}; one of them died, or did not answer "
            f"within timeout_sec {spec.timeout_sec:g}. Start again to go on from the last checkpoint"
        ) from error


def has_left() -> bool:
    """Whether this process has left its world, or was in none with others."""
    return not dist.is_initialized()


def end_process(status: int) -> NoReturn:
    """End a process that has not left its world: what Python does at the end closes the groups, which may wait for ever
    for a process that is dead or elsewhere."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextmanager
def agreed(world: World) -> Iterator[None]:
    """A block that every process runs: an error of ours that any of them raises in it, all raise at its end.

    One process that goes another way than the others would leave them waiting for it.
    """
    failure: TrainerError | TrainingFailure | None = None
    try:
        yield
    except (TrainerError, TrainingFailure) as error:
        failure = error
    told = world.gather(json.dumps([type(failure).__name__, str(failure)]) if failure else "")
    if first := next(filter(None, told), None):
        name, message = json.loads(first)
        try:
            raise getattr(errors, name)(message) from failure
        finally:
            failure = None  # or it holds this frame, which holds it: with all that the block made, until gc comes


@contextmanager
def patiently(world: World) -> Iterator[None]:
    """A block in which one process may work for longer than `timeout_sec` while the others wait at its end."""
    group = dist.new_group(backend="gloo", timeout=_LONG_WAIT) if world.size > 1 else None
    try:
        yield
    finally:
        if group is not None:
            dist.barrier(group)


def local_device() -> torch.device:
    """This process's GPU, CUDA or ROCm, by LOCAL_RANK; the CPU if there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def check_sum(group: dist.ProcessGroup | None, device: torch.device) -> None:
    """Sum the ranks over the group.

    Raises:
        RuntimeError: the sum is wrong, or there is none.
    """
    total = torch.tensor([dist.get_rank() + 1.0], device=device)
    dist.all_reduce(total, group=group)
    expected = dist.get_world_size() * (dist.get_world_size() + 1) / 2
    if total.item() != expected:
        raise RuntimeError(f"the all-reduce check gave {total.item():g}, expected {expected:g}")


def _is_collective(error: RuntimeError) -> bool:
    # gloo says some things without its name: of a process that does not answer in time, and of a closed connection.
    said = ("gloo", "NCCL", "all-reduce check", "Application timeout", "onnection closed by peer", "onnection reset by")
    return isinstance(error, dist.DistError) or any(each in str(error) for each in said)
