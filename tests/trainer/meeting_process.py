"""One of two processes that meet again and again, as those of torchrun do; says as JSON what it came to."""

import json
import os
import sys
import time
from unittest.mock import patch

import torch
import torch.distributed as dist

from trainer import distributed, gradients
from trainer.distributed import end_process, has_left, joined_world
from trainer.errors import TrainerError, TrainingFailure
from trainer.spec import TrainSpec

SPEC = TrainSpec(frame_path="frame", model_output_dir="bundle", backend="nccl", timeout_sec=30)
RANK = os.environ["RANK"]


def main() -> None:
    # As between machines that torchrun started a different number of times.
    os.environ["TORCHELASTIC_RESTART_COUNT"] = RANK
    says(nccl=attempt())
    device = torch.device("cuda" if RANK == "1" else "cpu")
    with patch.object(distributed, "local_device", lambda: device), patch.object(torch.cuda, "set_device"):
        says(devices=attempt())
    gradients._CHECK_SECONDS = 0.5
    if RANK == "1":
        dist.new_group = lambda **_: time.sleep(60)
    says(silent=attempt())
    says(has_left=has_left())
    end_process(7)


def attempt() -> str:
    """What becomes of a group for gradients by NCCL."""
    with joined_world(SPEC) as world:
        try:
            world = gradients.with_gradient_group(world, SPEC)
        except (TrainerError, TrainingFailure) as error:
            if type(error).__name__ == "DeviceError":
                world.leave()
            return f"{type(error).__name__}: {error}"
        backend = dist.get_backend(world.gradients)
        world.leave()
        return backend


def says(**facts: object) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()
