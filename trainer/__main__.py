"""Train a forecast model as a spec describes it.

    one CPU, one process    python -m trainer --spec spec.json
    N processes             torchrun --standalone --nproc-per-node N -m trainer --spec spec.json

Exit status 2, with one line on standard error, says that the spec or the frame must be put right.
"""

import argparse
import sys

from trainer.distributed import env_rank, joined_world
from trainer.errors import TrainerError
from trainer.job import run
from trainer.report import Report, opened_report
from trainer.spec import TrainSpec

USER_ERROR = 2


def main() -> int:
    """Run the training; returns the exit status."""
    parser = argparse.ArgumentParser(prog="trainer", description="Train a forecast model as a spec describes it.")
    parser.add_argument("--spec", required=True, help="path of the training spec, a JSON document")
    spec_path: str = parser.parse_args().spec
    with opened_report(env_rank()) as report:
        try:
            return _train(TrainSpec.load(spec_path), report)
        except TrainerError as error:
            report.error(str(error))
            return USER_ERROR


def _train(spec: TrainSpec, report: Report) -> int:
    with joined_world(spec) as world:
        try:
            run(spec, world, report)
        except TrainerError as error:
            report.error(str(error))
            # torchrun ends all processes as soon as one has failed: none may go before the first has reported.
            world.barrier()
            return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
