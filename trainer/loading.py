"""The frame made ready for training: in memory, or streamed if it is too large for that."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import torch

from trainer.checkpoint import CheckpointStore
from trainer.dataset import Dataset, Rows
from trainer.distributed import World, agreed
from trainer.errors import CheckpointMismatchError, FrameError
from trainer.frame import Manifest, read_frame, read_manifest
from trainer.inputs import Encoder
from trainer.machine import available_workers, free_memory
from trainer.recovery import Adjustments, device_has_room_for
from trainer.sampling import Batches, MemoryBatches
from trainer.scanning import scan
from trainer.spec import TrainSpec
from trainer.streaming import StreamedBatches, StreamedRows
from trainer.windows import SalesPanel, with_windows

_COPIES_IN_MEMORY = 4  # as Arrow, as float64 while it is encoded, and as tensors
_SHARE_OF_FREE_MEMORY = 0.5


@dataclass(kw_only=True, slots=True, frozen=True)
class Prepared:
    """What a training needs of a frame; all but the batches as in `trainer.dataset.Dataset`."""

    encoder: Encoder
    batches: Batches
    validation: Rows
    validation_table: pa.Table
    gap_table: pa.Table
    training_rows: int
    training_weeks: tuple[str, str]


def agreed_manifest(spec: TrainSpec, world: World) -> Manifest:
    """The frame's manifest, the same on all processes.

    Raises:
        FrameError: there is no complete frame, or the processes do not see the same one; on all processes.
    """
    with agreed(world):
        manifest = read_manifest(spec.frame_path)
    if len(hashes := set(world.gather(manifest.content_hash))) > 1:
        raise FrameError(f"the processes see different frames: their content hashes are {', '.join(sorted(hashes))}")
    return manifest


def with_loading(
    kept: Adjustments, checkpoints: CheckpointStore, manifest: Manifest, spec: TrainSpec, world: World
) -> Adjustments:
    """Those kept, with how the frame is loaded: as before an interruption, if the spec does not say otherwise.

    Raises:
        CheckpointMismatchError: it does, and there are checkpoints, which go on in the other order of rows; on all
            processes.
    """
    if kept.loading and spec.loading not in {"auto", kept.loading}:
        with agreed(world):
            if world.rank == 0 and checkpoints.exist():
                raise CheckpointMismatchError(
                    f'the checkpoints in {checkpoints.folder} are of a training with loading "{kept.loading}", and '
                    f'that of the spec is "{spec.loading}": give back that loading, or remove the folder to begin anew'
                )
        kept = replace(kept, loading="", workers=0)
    loading = kept.loading or choose_loading(manifest, spec, world)
    return replace(kept, loading=loading, workers=kept.workers or choose_workers(loading, world))


def choose_loading(manifest: Manifest, spec: TrainSpec, world: World) -> str:
    """ "memory" or "stream": as the spec says, or by the size of the frame and the free memory of every machine."""
    if spec.loading != "auto":
        return spec.loading
    size = manifest.rows * len(manifest.columns) * 8 * _COPIES_IN_MEMORY * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return "stream" if world.any(size > _SHARE_OF_FREE_MEMORY * free_memory()) else "memory"


def choose_workers(loading: str, world: World) -> int:
    """Loading processes of each training process: as many as the CPUs of the smallest machine allow; 0 in memory."""
    if loading == "memory":
        return 0
    # The rows are dealt out by this number: it has to be the same on all machines.
    return min(int(workers) for workers in world.gather(str(available_workers())))


def prepare(manifest: Manifest, spec: TrainSpec, world: World, loading: str, workers: int = 0) -> Prepared:
    """Read the frame, fit the encoder on training rows, once for all processes, and encode.

    Args:
        loading: "memory" or "stream".
        workers: of a streamed frame, the loading processes of each training process; 0 loads in that itself.

    Raises:
        FrameError: a chunk is corrupt, the frame is too short for the split, or as `trainer.checks.require_trainable`;
            on all processes.
        OutOfDeviceMemoryError: the device has too little memory for the rows; on all processes.
    """
    if loading == "memory":
        with agreed(world), device_has_room_for("all rows", 'set loading to "stream", or sample_size'):
            return _in_memory(spec, world)
    with agreed(world), device_has_room_for("the validation rows", "lower val_size"):
        return _streamed(manifest, spec, world, workers)


def _in_memory(spec: TrainSpec, world: World) -> Prepared:
    with agreed(world):
        table = read_frame(spec.frame_path).table

    def fit(training: pa.Table, spec: TrainSpec) -> Encoder:
        return Encoder.from_dict(_told_by_first(world, lambda: Encoder.fit(training, spec).to_dict()))

    # What is wrong with these rows from here on is wrong on every process.
    data = Dataset.of(table, spec, world.device, fit)
    return Prepared(
        encoder=data.encoder,
        batches=MemoryBatches(data.training, largest=spec.batch_size, seed=spec.seed, world=world),
        validation=data.validation,
        validation_table=data.validation_table,
        gap_table=data.gap_table,
        training_rows=len(data.training),
        training_weeks=data.training_weeks,
    )


def _streamed(manifest: Manifest, spec: TrainSpec, world: World, workers: int) -> Prepared:
    with agreed(world):
        found = scan(manifest, spec)
    panel = None
    if found.labels is not None:
        panel = SalesPanel.of(found.labels, series=spec.series, timestamp=spec.timestamp, label=spec.label)

    def fit() -> dict[str, Any]:
        encoder = Encoder.fit(found.fitted, spec)
        rows = Rows.of(found.fitted, encoder, spec, panel, torch.device("cpu"))
        return {"encoder": encoder.to_dict(), "mean_weight": rows.mean_weight}

    fitted = _told_by_first(world, fit)
    rows = StreamedRows(
        chunks=tuple(map(str, manifest.chunks)),
        training_rows=found.training_rows,
        columns=found.columns,
        split=found.split,
        encoder=Encoder.from_dict(fitted["encoder"]),
        spec=spec,
        panel=panel,
        mean_weight=fitted["mean_weight"],
    )
    return Prepared(
        encoder=rows.encoder,
        batches=StreamedBatches(rows, largest=spec.batch_size, world=world, workers=workers),
        validation=Rows.of(found.validation, rows.encoder, spec, panel, world.device),
        # With their windows, so that a forecaster can read them as it reads any table.
        validation_table=with_windows(found.validation, panel) if panel else found.validation,
        gap_table=with_windows(found.gap, panel) if panel else found.gap,
        training_rows=len(rows),
        training_weeks=found.training_weeks,
    )


def _told_by_first(world: World, fit: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the first process has fitted, as JSON values, on all."""
    content = b""
    with agreed(world):
        if world.rank == 0:
            content = json.dumps(fit()).encode()
    told: dict[str, Any] = json.loads(world.broadcast(content))
    return told
