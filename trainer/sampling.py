"""Which rows each process trains on in each step, from tensors in memory.

Shapes: N rows, B rows of one process's share of a batch.
"""

import math
from collections.abc import Iterator
from typing import Protocol

import torch

from trainer.dataset import Batch, Rows
from trainer.distributed import World

_MIN_BATCH = 64
_MIN_STEPS_PER_EPOCH = 100


class Batches(Protocol):
    """The training rows as batches. Every process takes equally many steps, each with its own share of the rows."""

    batch_size: int
    """Rows of a step over all processes."""
    steps_per_epoch: int

    def epoch(self, epoch: int, rows_done: int) -> Iterator[Batch]:
        """This process's shares of an epoch's batches in an order of that epoch's own, `rows_done` of them skipped."""


class MemoryBatches:
    """Shares of rows that are in memory.

    All processes draw the same order and cut their own share from each batch. The order runs on into its beginning, so
    that every batch is full.
    """

    def __init__(self, rows: Rows, *, largest: int, seed: int, world: World) -> None:
        self._rows, self._seed, self._world = rows, seed, world
        self.batch_size = global_batch_size(len(rows), largest, world.size)
        self.steps_per_epoch = math.ceil(len(rows) / self.batch_size)

    def epoch(self, epoch: int, rows_done: int) -> Iterator[Batch]:
        """As `Batches.epoch`."""
        count = len(self._rows)
        order_N = torch.randperm(count, generator=torch.Generator().manual_seed(self._seed + epoch))
        order_N = torch.cat([order_N, order_N.repeat(math.ceil(self.batch_size / count))[: self.batch_size]])
        order_N = order_N.to(self._world.device)  # in one piece: a copy for each batch would wait for the GPU each time
        share = self.batch_size // self._world.size
        for start in range(rows_done, count, self.batch_size):
            first = start + self._world.rank * share
            yield self._rows.batch(order_N[first : first + share])


def global_batch_size(rows: int, largest: int, processes: int) -> int:
    """Rows per step: a power of two that gives a small frame enough steps, at most `largest`, in equal shares."""
    wanted = max(_MIN_BATCH, 1 << int(math.log2(max(1, rows / _MIN_STEPS_PER_EPOCH))))
    return math.ceil(min(largest, wanted) / processes) * processes
