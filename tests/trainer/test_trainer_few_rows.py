"""Fewer rows than there are processes to share them."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from trainer_frames import made_up_table, publish_frame

from trainer.bundle import read_sidecar
from trainer.distributed import World
from trainer.frame import read_manifest
from trainer.loading import prepare
from trainer.spec import TrainSpec
from trainer.streaming import StreamedBatches

TABLE = made_up_table(weeks=60, stores=2, depts=3)
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def spec(tmp_path: Path) -> TrainSpec:
    """Of a frame with one row in its last week, the only one that is validated."""
    is_last = pc.equal(TABLE["event_timestamp"], pc.max(TABLE["event_timestamp"]))
    table = pa.concat_tables([TABLE.filter(pc.invert(is_last)), TABLE.filter(is_last).slice(0, 1)])
    return TrainSpec(
        frame_path=str(publish_frame(table, tmp_path / "frame", chunk_rows=100)),
        model_output_dir=str(tmp_path / "bundle"),
        hidden_dims=(4,),
        members=2,
        num_epochs=1,
        val_size=1,
    )


@pytest.mark.parametrize(("sample_size", "lanes"), [(1, 8), (3, 4), (5, 8)])
def test_lane_without_rows_takes_as_many_steps_as_the_others_and_learns_nothing(
    spec: TrainSpec, sample_size: int, lanes: int
) -> None:
    few = replace(spec, sample_size=sample_size)
    data = prepare(read_manifest(few.frame_path), few, ALONE, "stream")
    assert isinstance(data.batches, StreamedBatches)
    shares = []
    for rank in range(lanes):
        world = World(rank=rank, size=lanes, device=torch.device("cpu"))
        batches = StreamedBatches(data.batches._stream._rows, largest=64, world=world, workers=0)
        (batch,) = batches.epoch(1, 0)
        shares.append(int((batch.weight > 0).sum()))
    assert sum(shares) == sample_size
    assert 0 in shares


def test_process_without_a_row_to_validate_leaves_the_score_to_the_others_and_all_say_what_they_run_on(
    spec: TrainSpec, tmp_path: Path
) -> None:
    spec.save(tmp_path / "spec.json")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, "-m", "trainer", "--spec", str(tmp_path / "spec.json")]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    (logged, told), _ = (rank.communicate(timeout=120) for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0], told
    (epoch,) = read_sidecar(spec.model_output_dir)["history"]
    assert np.isfinite(epoch["validation_loss"])
    assert epoch["wmae"] > 0
    started = next(line for line in logged.splitlines() if " started " in line)
    assert "device=cpu backend=gloo processes=2 loading=memory workers=0 batch_size=64 precision=float32" in started
