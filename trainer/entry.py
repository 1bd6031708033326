"""One training from its spec to an exit status, whatever becomes of it."""

import json
import sys
from collections.abc import Callable
from typing import Any

from trainer.distributed import env_rank, joined_world
from trainer.errors import CollectiveError, Interrupted, OutOfDeviceMemoryError, TrainerError, TrainingFailure
from trainer.job import run
from trainer.report import Report, opened_report
from trainer.spec import TrainSpec
from trainer.training import OnStep


def train(load_spec: Callable[[], TrainSpec], on_step: OnStep = lambda _step, _model: None) -> int:
    """Run a training and report what becomes of it; returns the exit status (`trainer.__main__`).

    Args:
        load_spec: reads the spec; a mistake in it is reported as well.
        on_step: as `trainer.job.run`.
    """
    with opened_report(env_rank()) as report:
        try:
            with joined_world(spec := load_spec()) as world:
                try:
                    run(spec, world, report, on_step)
                except (TrainerError, TrainingFailure) as error:
                    status = _reported(error, report)
                    if not isinstance(error, OutOfDeviceMemoryError):
                        # torchrun ends all processes as soon as one has failed: none may go before the first reported.
                        world.barrier()
                    return status
        except (TrainerError, CollectiveError) as error:
            return _reported(error, report)
    return 0


def train_or_exit(parameters: dict[str, Any]) -> None:
    """Train by the fields of a spec; ends the process if that fails."""
    if status := train(lambda: TrainSpec.from_json(json.dumps(parameters))):
        sys.exit(status)


def _reported(error: TrainerError | TrainingFailure, report: Report) -> int:
    if not isinstance(error, Interrupted):
        report.error(error.kind, str(error))
    return error.exit_status
