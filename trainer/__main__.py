"""Train a forecast model as a spec describes it.

    one CPU, one process    python -m trainer --spec spec.json
    N processes             torchrun --standalone --nproc-per-node N --max-restarts 3 -m trainer --spec spec.json

Exit status:
     0  the bundle is published
     1  something happened to the training; one line on standard error says what. Started again, it goes on from its
        last checkpoint
     2  the spec, the frame or a checkpoint must be put right, as one line on standard error says
    75  a signal (SIGTERM, SIGINT) ended it after a step and its state is saved: start it again to go on (EX_TEMPFAIL)

torchrun passes SIGTERM on to its processes, and ends with a status of its own.
"""

import argparse
import sys

from trainer.allocator import keep_freed_memory
from trainer.entry import train
from trainer.spec import TrainSpec


def main() -> int:
    """Run the training of the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="trainer", description="Train a forecast model as a spec describes it.")
    parser.add_argument("--spec", required=True, help="path of the training spec, a JSON document")
    spec_path: str = parser.parse_args().spec
    keep_freed_memory()
    return train(lambda: TrainSpec.load(spec_path))


if __name__ == "__main__":
    sys.exit(main())
