"""The frame as a dataset and its batches: in memory, or streamed if it is too large for that."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from trainer.baselines import BASELINE_COLUMNS
from trainer.dataset import Dataset, Rows
from trainer.distributed import World, agreed
from trainer.errors import FrameError
from trainer.frame import (
    Manifest,
    Split,
    evenly_spaced,
    read_chunk,
    read_frame,
    read_manifest,
    require_columns,
    week_numbers,
    week_span,
)
from trainer.inputs import Encoder
from trainer.sampling import Batches, MemoryBatches
from trainer.spec import TrainSpec
from trainer.streaming import StreamedBatches, StreamedRows, available_workers
