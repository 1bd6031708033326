"""The trainer, disturbed after given steps, each time once.

`--disturb RANK:STEP:SIGNAL:self` (or `parent`) sends a signal; `--disturb RANK:STEP:OOM:self` finds the device full.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from trainer.entry import train
from trainer.spec import TrainSpec


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--disturb", action="append", default=[])
    arguments = parser.parse_args()

    def on_step(step: int, _model: nn.Module) -> None:
        for each in arguments.disturb:
            rank, at, name, who = each.split(":")
            done = arguments.spec.with_name(f"done-{each}")
            if (os.environ["RANK"], str(step)) == (rank, at) and not done.exists():
                done.touch()
                if name == "OOM":
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
                os.kill(os.getpid() if who == "self" else os.getppid(), getattr(signal, name))

    return train(lambda: TrainSpec.load(arguments.spec), on_step)


if __name__ == "__main__":
    sys.exit(main())
