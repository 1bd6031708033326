"""One training from its spec to an exit status, whatever becomes of it."""

import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

from trainer.children import no_child_left
from trainer.distributed import end_process, env_rank, has_left, joined_world
from trainer.errors import EXIT_FAILURE, CollectiveError, Interrupted, TrainerError, TrainingFailure
from trainer.gradients import with_gradient_group
from trainer.job import run
from trainer.report import LogSink, Report, opened_report
from trainer.spec import TrainSpec
from trainer.training import OnStep


def train(load_spec: Callable[[], TrainSpec], on_step: OnStep = lambda _step, _model: None) -> int:
    """Run a training and report what becomes of it; returns the exit status (`trainer.__main__`).

    Where it fails in one of several processes, that process ends here with the status.

    Args:
        load_spec: reads the spec; a mistake in it is reported as well.
        on_step: as `trainer.job.run`.
    """
    try:
        with no_child_left(), opened_report(env_rank()) as report:
            status = _reported_training(load_spec, report, on_step)
    except TrainerError as error:  # of where it is to be reported
        status = _reported(error, Report([LogSink()]))
    except Exception:
        if has_left():
            raise
        traceback.print_exc()
        status = EXIT_FAILURE
    if not has_left():
        end_process(status)
    return status


def train_or_exit(parameters: dict[str, Any]) -> None:
    """Train by the fields of a spec; ends the process if that fails."""
    if status := train(lambda: TrainSpec.from_json(json.dumps(parameters))):
        sys.exit(status)


def _reported_training(load_spec: Callable[[], TrainSpec], report: Report, on_step: OnStep) -> int:
    status = 0
    try:
        with joined_world(spec := load_spec()) as world:
            try:
                run(spec, with_gradient_group(world, spec), report, on_step)
                world.leave()
            except (TrainerError, TrainingFailure) as error:
                status = _reported(error, report)
                if isinstance(error, TrainerError) or not error.apart:
                    # torchrun ends all processes as soon as one has failed: none may go before the first reported.
                    world.barrier()
    except (TrainerError, CollectiveError) as error:
        status = _reported(error, report)
    return status


def _reported(error: TrainerError | TrainingFailure, report: Report) -> int:
    if not isinstance(error, Interrupted):
        report.error(error.kind, str(error))
    return error.exit_status
