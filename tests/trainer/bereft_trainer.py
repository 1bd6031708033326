"""A streamed training with two loading processes that loses one of them after its first step."""

import multiprocessing
import sys
import time
from unittest.mock import patch

from torch import nn

from trainer import loading
from trainer.entry import train
from trainer.spec import TrainSpec


def kill_a_loading_process(_step: int, _model: nn.Module) -> None:
    multiprocessing.active_children()[0].kill()
    time.sleep(60)  # until the loader hears of it


if __name__ == "__main__":
    with patch.object(loading, "available_workers", lambda: 2):
        sys.exit(train(lambda: TrainSpec.load(sys.argv[1]), kill_a_loading_process))
