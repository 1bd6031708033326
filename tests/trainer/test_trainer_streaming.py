"""A frame that is streamed is learned from as one in memory, and every row of it once an epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from trainer_frames import made_up_table, publish_frame

from trainer.bundle import read_sidecar
from trainer.distributed import World
from trainer.entry import train
from trainer.errors import FrameError
from trainer.frame import read_frame, read_manifest
from trainer.loading import Prepared, choose_loading, prepare
from trainer.spec import TrainSpec
from trainer.streaming import StreamedBatches, StreamedRows

Targets = np.ndarray[Any, np.dtype[np.float32]]
ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    root = tmp_path_factory.mktemp("streaming")
    frame = publish_frame(made_up_table(), root / "frame", chunk_rows=170)
    return TrainSpec(frame_path=str(frame), model_output_dir=str(root / "bundle"), loading="stream", members=2)


@pytest.fixture(scope="module")
def streamed(spec: TrainSpec) -> Prepared:
    return prepare(read_manifest(spec.frame_path), spec, ALONE, "stream")


def rows_of(data: Prepared) -> StreamedRows:
    assert isinstance(data.batches, StreamedBatches)
    return data.batches._stream._rows


def epoch_of(rows: StreamedRows, epoch: int, *, size: int, largest: int = 64, done: int = 0) -> list[Targets]:
    """The targets of real rows, batch by batch, of all processes of an epoch."""
    targets, steps = [], set()
    for rank in range(size):
        world = World(rank=rank, size=size, device=torch.device("cpu"))
        batches = StreamedBatches(rows, largest=largest, world=world, workers=0)
        taken = list(batches.epoch(epoch, done))
        assert len(taken) == batches.steps_per_epoch - done // batches.batch_size
        assert {len(batch.target) for batch in taken} == {batches.batch_size // size}
        steps.add(len(taken))
        targets += [batch.target[batch.weight > 0].numpy() for batch in taken]
    assert len(steps) == 1
    return targets


@pytest.mark.parametrize("size", [1, 3])
def test_every_training_row_is_learned_from_once_an_epoch_in_an_order_of_its_own(
    spec: TrainSpec, streamed: Prepared, size: int
) -> None:
    memory = prepare(read_manifest(spec.frame_path), spec, ALONE, "memory")
    assert memory.encoder == streamed.encoder
    everything = memory.batches._rows.target.numpy()  # type: ignore[attr-defined]
    first, second = (np.concatenate(epoch_of(rows_of(streamed), epoch, size=size)) for epoch in (1, 2))
    assert np.array_equal(np.sort(first), np.sort(everything))
    assert np.array_equal(np.sort(second), np.sort(everything))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, np.concatenate(epoch_of(rows_of(streamed), 1, size=size)))
    # Mixed over the frame: the first batches are not all of its first weeks.
    assert np.corrcoef(np.argsort(np.argsort(first)), np.arange(len(first)))[0, 1] < 0.5


def test_epoch_is_gone_on_with_after_the_rows_that_are_done(streamed: Prepared) -> None:
    whole, rest = (epoch_of(rows_of(streamed), 3, size=1, done=done) for done in (0, 5 * 64))
    assert all(np.array_equal(one, other) for one, other in zip(whole[5:], rest, strict=True))


def test_loading_processes_give_the_lanes_in_turn(streamed: Prepared) -> None:
    rows = rows_of(streamed)
    batches = StreamedBatches(rows, largest=64, world=ALONE, workers=2)
    with_workers = [np.concatenate([b.target[b.weight > 0].numpy() for b in batches.epoch(e, 0)]) for e in (1, 2)]
    assert np.array_equal(np.sort(with_workers[0]), np.sort(with_workers[1]))
    assert len(with_workers[0]) == len(rows)
    assert not np.array_equal(with_workers[0], with_workers[1])


def test_sample_of_the_rows_is_the_same_in_memory_and_streamed(spec: TrainSpec) -> None:
    few = TrainSpec(**{**spec.to_dict(), "sample_size": 333})
    memory, streamed = (prepare(read_manifest(few.frame_path), few, ALONE, how) for how in ("memory", "stream"))
    assert memory.training_rows == streamed.training_rows == 333
    assert memory.encoder == streamed.encoder
    columns = streamed.validation_table.column_names
    assert streamed.validation_table.equals(memory.validation_table.select(columns))
    targets = np.concatenate(epoch_of(rows_of(streamed), 1, size=2))
    assert np.array_equal(np.sort(targets), np.sort(memory.batches._rows.target.numpy()))  # type: ignore[attr-defined]


def test_rows_in_memory_at_a_time_are_few_chunks(spec: TrainSpec, streamed: Prepared) -> None:
    """Arrow's memory, in which chunks are read, decoded and mixed, stays far below that of the frame."""
    table = read_frame(spec.frame_path).table
    whole = table.nbytes
    del table
    batches = StreamedBatches(rows_of(streamed), largest=64, world=ALONE, workers=0)
    before, most = pa.total_allocated_bytes(), 0
    for _ in batches.epoch(1, 0):
        most = max(most, pa.total_allocated_bytes() - before)
    assert 0 < most < whole / 2


def test_streamed_training_scores_like_one_in_memory(
    spec: TrainSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.loading.available_workers", lambda: 0)
    monkeypatch.setattr("trainer.job.write_plots", lambda *_: None)
    scores = {}
    for loading in ("memory", "stream"):
        fields = {"loading": loading, "model_output_dir": str(tmp_path / loading), "num_epochs": 2, "hidden_dims": [8]}
        training = TrainSpec(**{**spec.to_dict(), **fields})
        assert train(lambda training=training: training) == 0  # type: ignore[misc]
        scores[loading] = read_sidecar(tmp_path / loading)["scores"]["wmae"]
    assert scores["stream"] == pytest.approx(scores["memory"], rel=0.03)


def test_large_frames_are_streamed_and_small_ones_are_not(spec: TrainSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    auto = TrainSpec(**{**spec.to_dict(), "loading": "auto"})
    manifest = read_manifest(spec.frame_path)
    assert choose_loading(manifest, auto, ALONE) == "memory"
    monkeypatch.setattr("trainer.loading.free_memory", lambda: 1_000_000)
    assert choose_loading(manifest, auto, ALONE) == "stream"


def test_corrupt_chunk_of_a_streamed_frame_is_refused(spec: TrainSpec, tmp_path: Path) -> None:
    frame = publish_frame(made_up_table(weeks=40), tmp_path / "frame", chunk_rows=200)
    with (frame / "chunk-00001.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(FrameError, match=r"chunk-00001\.parquet is corrupt"):
        prepare(read_manifest(frame), TrainSpec(**{**spec.to_dict(), "frame_path": str(frame)}), ALONE, "stream")
