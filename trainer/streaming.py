"""Training rows of a frame that is larger than memory: read, encoded and shuffled chunk by chunk in every epoch.

The training rows, in the order of the frame, are cut into as many equal lanes as there are loading processes in all.
A lane goes through its pieces of chunks in a new order each epoch, several at a time, whose rows it mixes.
A lane that ends short of a full batch fills it up with rows of weight 0, so that every lane takes equally many steps
and every row is learned from once.

Shapes: N rows, B rows of one process's share of a batch.
"""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trainer.children import children_without_signals
from trainer.dataset import Batch, ModelInputs, Rows
from trainer.distributed import World
from trainer.frame import Split, evenly_spaced, week_numbers
from trainer.inputs import Encoder
from trainer.sampling import global_batch_size
from trainer.spec import TrainSpec
from trainer.windows import SalesPanel

_PIECES_AT_ONCE = 4
_PREFETCHED = 4

_Sample = tuple[ModelInputs, Tensor, Tensor]
"""inputs, target and weight of a batch: a plain tuple, whose tensors the loader knows how to pin."""


@dataclass(kw_only=True, slots=True, frozen=True)
class StreamedRows:
    """The training rows of a frame that stays on disk.

    chunks: its files. training_rows: how many rows of each are trained on, before `sample_size`.
    columns: those to read.
    """

    chunks: tuple[str, ...]
    training_rows: tuple[int, ...]
    columns: tuple[str, ...]
    split: Split
    encoder: Encoder
    spec: TrainSpec
    panel: SalesPanel | None
    mean_weight: float

    def __len__(self) -> int:
        total = sum(self.training_rows)
        return min(total, self.spec.sample_size or total)


class StreamedBatches:
    """`trainer.sampling.Batches` of streamed rows.

    Args:
        workers: loading processes of each training process; 0 loads in the training process itself.
    """

    def __init__(self, rows: StreamedRows, *, largest: int, world: World, workers: int) -> None:
        self._world = world
        lanes_each = max(1, workers)
        self.batch_size = global_batch_size(len(rows), largest, world.size)
        share = self.batch_size // world.size
        self._stream = _Lanes(rows, first=world.rank * lanes_each, lanes=world.size * lanes_each, share=share)
        self.steps_per_epoch = self._stream.steps * lanes_each
        self._loader: DataLoader[_Sample] = DataLoader(
            self._stream,
            batch_size=None,
            num_workers=workers,
            pin_memory=world.device.type == "cuda",
            prefetch_factor=_PREFETCHED if workers else None,
            persistent_workers=workers > 0,
            # Without one of its own the loader draws from the stream that dropout draws from: once for each start.
            generator=torch.Generator(),
            # A forked child of a process with threads (Arrow, gloo, CUDA) may hang.
            multiprocessing_context="spawn" if workers else None,
        )

    def epoch(self, epoch: int, rows_done: int) -> Iterator[Batch]:
        """As `Batches.epoch`."""
        self._stream.set_epoch(epoch)
        device = self._world.device
        with children_without_signals() if self._loader.num_workers else nullcontext():
            samples = iter(self._loader)
        for (numeric_BF, codes_BC, history_BTH), target_B, weight_B in islice(
            samples, rows_done // self.batch_size, None
        ):
            history = None if history_BTH is None else history_BTH.to(device, non_blocking=True)
            inputs = (numeric_BF.to(device, non_blocking=True), codes_BC.to(device, non_blocking=True), history)
            yield Batch(
                inputs=inputs,
                target=target_B.to(device, non_blocking=True),
                weight=weight_B.to(device, non_blocking=True),
            )


@dataclass(kw_only=True, slots=True, frozen=True)
class _Piece:
    """The training rows of a chunk from `first` to below `last`; `offset` counts those of the chunks before it."""

    chunk: str
    first: int
    last: int
    offset: int


class _Lanes(IterableDataset[_Sample]):
    """The lanes of one training process: each worker iterates over its own."""

    def __init__(self, rows: StreamedRows, *, first: int, lanes: int, share: int) -> None:
        self._rows, self._first, self._lanes, self._share = rows, first, lanes, share
        # In shared memory: persistent workers would not see a plain number change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.steps = math.ceil(math.ceil(sum(rows.training_rows) / lanes) / share)
        if rows.spec.sample_size:
            counts = [sum(self._wanted(piece) for piece in self._pieces(lane)) for lane in range(lanes)]
            self.steps = math.ceil(max(counts) / share)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle anew."""
        self._epoch.fill_(epoch)

    def __iter__(self) -> Iterator[_Sample]:
        worker = get_worker_info()
        lane = self._first + (worker.id if worker else 0)
        random = np.random.default_rng([self._rows.spec.seed, int(self._epoch), lane])
        pieces = self._pieces(lane)
        order = random.permutation(len(pieces))
        rest, encoded, steps = None, None, 0
        for start in range(0, len(order), _PIECES_AT_ONCE):
            tables = [self._read(pieces[number]) for number in order[start : start + _PIECES_AT_ONCE]]
            table = pa.concat_tables([rest, *tables] if rest is not None else tables)
            table = table.take(pa.array(random.permutation(table.num_rows)))
            is_last = start + _PIECES_AT_ONCE >= len(order)
            full = table.num_rows if is_last else table.num_rows // self._share * self._share
            if full:
                encoded = self._encode(table.slice(0, full))
                for first in range(0, full, self._share):
                    yield _sample(encoded, first, self._share)
                    steps += 1
            rest = table.slice(full)
        for _ in range(self.steps - steps):
            if encoded is None:
                encoded = self._encode(self._any_row())
            yield _sample(encoded, len(encoded), self._share)

    def _any_row(self) -> pa.Table:
        """A row of another lane: of a few rows, a lane may have got none."""
        pieces = (piece for lane in range(self._lanes) for piece in self._pieces(lane))
        return self._read(next(piece for piece in pieces if self._wanted(piece))).slice(0, 1)

    def _pieces(self, lane: int) -> list[_Piece]:
        total = sum(self._rows.training_rows)
        low, high = lane * total // self._lanes, (lane + 1) * total // self._lanes
        pieces, offset = [], 0
        for chunk, rows in zip(self._rows.chunks, self._rows.training_rows, strict=True):
            first, last = max(low, offset) - offset, min(high, offset + rows) - offset
            if first < last:
                pieces.append(_Piece(chunk=chunk, first=first, last=last, offset=offset))
            offset += rows
        return pieces

    def _wanted(self, piece: _Piece) -> int:
        return int(self._chosen(piece).sum())

    def _chosen(self, piece: _Piece) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        total = sum(self._rows.training_rows)
        first, last = piece.offset + piece.first, piece.offset + piece.last
        return evenly_spaced(first, last, total, self._rows.spec.sample_size)

    def _read(self, piece: _Piece) -> pa.Table:
        table = pq.ParquetFile(piece.chunk).read(columns=list(self._rows.columns))
        training_N, _ = self._rows.split.masks(week_numbers(table, self._rows.spec.timestamp))
        index_N = np.flatnonzero(training_N)[piece.first : piece.last]
        return table.take(pa.array(index_N[self._chosen(piece)]))

    def _encode(self, table: pa.Table) -> Rows:
        rows = self._rows
        return Rows.of(table, rows.encoder, rows.spec, rows.panel, torch.device("cpu"), rows.mean_weight)


def _sample(rows: Rows, first: int, share: int) -> _Sample:
    """`share` rows from `first` on; beyond the last one, any row at weight 0."""
    index_B = torch.arange(first, first + share)
    beyond_B = index_B >= len(rows)
    batch = rows.batch(index_B.where(~beyond_B, 0))
    return batch.inputs, batch.target, batch.weight.masked_fill(beyond_B, 0.0)
