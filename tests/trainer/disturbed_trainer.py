"""The trainer, disturbed after given steps, each time once.

`--disturb RANK:STEP:SIGNAL:self` (or `parent`) sends a signal; `--disturb RANK:STEP:WHAT:self` does what
`_DISTURBANCES` says. Groups of processes are closed as NCCL closes its own.
"""

import argparse
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn

from trainer.entry import train
from trainer.spec import TrainSpec


def find_the_device_full(_model: nn.Module) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def make_the_weights_nan_and_the_disk_full(model: nn.Module) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


_DISTURBANCES: dict[str, Callable[[nn.Module], None]] = {
    "OOM": find_the_device_full,
    "NAN": make_the_weights_nan_and_the_disk_full,
}


def close_groups(close: Callable[[], None] = dist.destroy_process_group) -> None:
    """Wait for all processes before, and for ever for one that will not come."""
    try:
        dist.barrier()
    except RuntimeError:
        time.sleep(3600)
    close()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--disturb", action="append", default=[])
    arguments = parser.parse_args()

    def on_step(step: int, model: nn.Module) -> None:
        for each in arguments.disturb:
            rank, at, name, who = each.split(":")
            done = arguments.spec.with_name(f"done-{each}")
            if (os.environ["RANK"], str(step)) == (rank, at) and not done.exists():
                done.touch()
                if name in _DISTURBANCES:
                    _DISTURBANCES[name](model)
                else:
                    os.kill(os.getpid() if who == "self" else os.getppid(), getattr(signal, name))

    with patch.object(dist, "destroy_process_group", close_groups):
        return train(lambda: TrainSpec.load(arguments.spec), on_step)


if __name__ == "__main__":
    sys.exit(main())
