"""A training that recovers: tries from the last checkpoint, each with what the one before taught."""

import gc

import torch

from trainer.dataset import Rows
from trainer.errors import OutOfDeviceMemoryError
from trainer.model import ModelConfig
from trainer.outcome import EpochReport, Fitted
from trainer.recovery import Adjustments, DivergenceFoundError
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
        OutOfDeviceMemoryError: no smaller parts of a batch are left to try; or there are several processes, which have
            to be started again to be alike: the adjustments for that are kept.
        Interrupted: a process was asked to stop.
        CheckpointWriteError: a checkpoint could not be written.
    """
    world, file = around.world, around.checkpoints.adjustments_file
    recovering = False
    while True:
        training = None
        try:
            training = Training(config, batches, validation, spec, around, adjustments)
            if training.resumed and not recovering:
                around.report.event("resumed", training.position())
            return training.finish()
        except DivergenceFoundError as found:
            adjustments = adjustments.after_divergence(str(found))
            kind, cure = "diverged", f"{found}; the learning rate is halved"
        except torch.OutOfMemoryError as error:
            rows = training.learner.part_rows(batches.batch_size // world.size) if training else batches.batch_size
            adjustments = adjustments.after_out_of_memory(rows)
            kind, cure = "cuda_out_of_memory", f"{error}; a batch is computed in twice as many parts, block by block"
        except RuntimeError as error:
            if world.size > 1 and Adjustments.load(file).memory_splits > adjustments.memory_splits:
                raise OutOfDeviceMemoryError(
                    "the device of another process has too little memory; a batch is computed in twice as many parts "
                    "when all processes are started again"
                ) from error
            raise
        recovering = True
        if kind == "cuda_out_of_memory" or world.rank == 0:
            adjustments.save(file)
        if kind == "cuda_out_of_memory" and world.size > 1:
            raise OutOfDeviceMemoryError(f"{cure} when all processes are started again")
        around.report.event(
            "recovered", {"kind": kind, "message": f"{cure}, and the training goes on from its last checkpoint"}
        )
        del training  # its tensors make room for those of the next try
        gc.collect()
        if world.device.type == "cuda":
            torch.cuda.empty_cache()
