"""A training that recovers: tries from the last checkpoint, each with what the one before taught."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from trainer.dataset import Rows
from trainer.distributed import World, agreed
from trainer.errors import OutOfDeviceMemoryError, TrainingFailure
from trainer.learner import amp_dtype
from trainer.model import ModelConfig
from trainer.outcome import EpochReport, Fitted
from trainer.recovery import Adjustments, DivergenceFoundError, device_has_room_for, is_out_of_memory
from trainer.sampling import Batches
from trainer.spec import TrainSpec
from trainer.training import Surroundings, Training


def fit(
    config: ModelConfig,
    batches: Batches,
    validation: Rows,
    spec: TrainSpec,
    around: Surroundings,
    adjustments: Adjustments,
) -> tuple[Fitted, list[EpochReport]]:
    """Train to the end, whatever recoveries that takes.

    Returns:
        The best epoch's model, and the reports of all epochs.

    Raises:
        DivergedError: the loss was not finite or exploded once more after several roll-backs.
        OutOfDeviceMemoryError: the model alone does not fit, or no smaller parts of a batch are left to try; or there
            are several processes, which have to be started again to be alike: the adjustments for that are kept. Of
            several processes, this one is apart from the others then.
        Interrupted: a process was asked to stop.
        CheckpointWriteError: a checkpoint could not be written.
    """
    world, file = around.world, around.checkpoints.adjustments_file
    recovering = False
    while True:
        try:
            with _apart(world), device_has_room_for("the model alone", "use a smaller model or another device"):
                training = Training(config, batches, validation, spec, around, adjustments)
            if training.resumed and not recovering:
                around.report.event("resumed", training.position())
            return training.finish()
        except DivergenceFoundError as found:
            adjustments = adjustments.after_divergence(str(found), amp_dtype(spec, world.device))
            kind, cure = "diverged", f"{found}; the learning rate is halved"
            with agreed(world):
                if world.rank == 0:
                    adjustments.save(file)
        except TrainingFailure:
            raise
        except RuntimeError as error:
            with _apart(world):
                if not is_out_of_memory(error):
                    _look_for_other_out_of_memory(world, adjustments, file)
                    raise
                part_rows = training.learner.part_rows(batches.batch_size // world.size)
                adjustments = adjustments.after_out_of_memory(part_rows)
                adjustments.save(file)
                kind, cure = (
                    "cuda_out_of_memory",
                    f"{error}; a batch is computed in twice as many parts, block by block",
                )
                if world.size > 1:
                    raise OutOfDeviceMemoryError(f"{cure} when all processes are started again") from error
        recovering = True
        around.report.event(
            "recovered", {"kind": kind, "message": f"{cure}, and the training goes on from its last checkpoint"}
        )
        del training  # its tensors make room for those of the next try
        gc.collect()
        if world.device.type == "cuda":
            torch.cuda.empty_cache()


@contextmanager
def _apart(world: World) -> Iterator[None]:
    """What goes wrong in the block, goes wrong in this process alone."""
    try:
        yield
    except TrainingFailure as failure:
        failure.apart = world.size > 1
        raise


def _look_for_other_out_of_memory(world: World, adjustments: Adjustments, file: Path) -> None:
    """Whether an error comes of another process, which has left because its device was full."""
    if world.size > 1 and Adjustments.load(file).memory_splits > adjustments.memory_splits:
        raise OutOfDeviceMemoryError(
            "the device of another process has too little memory; a batch is computed in twice as many parts when all "
            "processes are started again"
        )
