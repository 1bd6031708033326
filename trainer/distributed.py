"""The processes of one training and what they tell each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from trainer.level import Floats
from trainer.spec import TrainSpec


def env_rank() -> int:
    """This process's rank as its launcher set it; 0 for a process on its own."""
    return int(os.environ.get("RANK", "0"))


@dataclass(kw_only=True, slots=True, frozen=True)
class World:
    """This process among `size`."""

    rank: int
    size: int
    device: torch.device

    def total(self, values: Floats) -> Floats:
        """The element-wise sum over all processes, the same on each."""
        if self.size == 1:
            return values
        summed = torch.as_tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return np.asarray(summed.cpu().numpy(), dtype=np.float64)

    def gather(self, text: str) -> list[str]:
        """Every process's text, in the order of ranks."""
        if self.size == 1:
            return [text]
        texts = [""] * self.size
        dist.all_gather_object(texts, text)
        return texts

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def joined_world(spec: TrainSpec) -> Iterator[World]:
    """Join the processes torchrun started, or be alone if it did not start this one."""
    rank, size = env_rank(), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available() and spec.backend != "gloo":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    world = World(rank=rank, size=size, device=device)
    if size == 1:
        yield world
        return
    backend = spec.backend if spec.backend != "auto" else ("nccl" if device.type == "cuda" else "gloo")
    dist.init_process_group(backend, timeout=timedelta(seconds=spec.timeout_sec))
    try:
        yield world
    finally:
        dist.destroy_process_group()
