"""What cannot be trained on, or published to, is refused in one line before the training."""

import datetime
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from trainer_frames import made_up_table, publish_frame, replaced

from trainer.bundle import load_model
from trainer.checkpoint import CheckpointStore
from trainer.dataset import Dataset
from trainer.distributed import World
from trainer.errors import BundleError, DivergedError, FrameError, SpecError
from trainer.fitting import fit
from trainer.frame import floats, read_frame, read_manifest, split_masks
from trainer.job import run
from trainer.loading import prepare
from trainer.model import model_config
from trainer.recovery import Adjustments
from trainer.report import Report
from trainer.signals import StopRequest
from trainer.spec import TrainSpec
from trainer.training import Surroundings

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
TABLE = made_up_table(weeks=60, stores=2, depts=3)


def spec_for(table: pa.Table, folder: Path, **fields: Any) -> TrainSpec:
    frame = publish_frame(table, folder / "frame", chunk_rows=100)
    return TrainSpec(frame_path=str(frame), model_output_dir=str(folder / "bundle"), members=2, **fields)


def refuse_to_learn(_step: int, _model: object) -> None:
    pytest.fail("the training began")


def with_values(name: str, value: float, rows: list[int]) -> pa.Table:
    values = floats(TABLE, name).copy()
    values[rows] = value
    return replaced(TABLE, **{name: values})


@pytest.mark.parametrize("loading", ["memory", "stream"])
@pytest.mark.parametrize("row", [7, -3], ids=["training week", "validation week"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_row_without_a_finite_label_is_refused_by_its_number(
    tmp_path: Path, loading: str, row: int, value: float
) -> None:
    number = row % TABLE.num_rows
    spec = spec_for(with_values("weekly_sales", value, [number, number + 1]), tmp_path, loading=loading)
    with pytest.raises(FrameError, match=rf"column weekly_sales .* 2 of the rows .* the first in row {number}\b"):
        prepare(read_manifest(spec.frame_path), spec, ALONE, loading)


@pytest.mark.parametrize("loading", ["memory", "stream"])
@pytest.mark.parametrize("name", ["sales_rolling_std_4", "sales_lag_52"], ids=["an input", "a baseline's column"])
def test_infinite_feature_is_refused_and_a_missing_one_is_not(tmp_path: Path, loading: str, name: str) -> None:
    spec = spec_for(with_values(name, -np.inf, [200]), tmp_path, loading=loading)
    with pytest.raises(FrameError, match=rf"column {name} is infinite in 1 of the rows .* the first in row 200\b"):
        prepare(read_manifest(spec.frame_path), spec, ALONE, loading)
    missing = spec_for(with_values(name, np.nan, [200]), tmp_path / "missing", loading=loading)
    prepare(read_manifest(missing.frame_path), missing, ALONE, loading)


def test_score_that_is_not_finite_is_no_best_epoch(tmp_path: Path) -> None:
    """Were it one, no later epoch would be better: nothing is less than NaN."""
    spec = spec_for(TABLE, tmp_path, hidden_dims=(4,), num_epochs=1)
    data = Dataset.of(TABLE, spec, ALONE.device)
    validation = replace(data.validation, actual=np.full_like(data.validation.actual, np.nan))
    batches = prepare(read_manifest(spec.frame_path), spec, ALONE, "memory").batches
    store = CheckpointStore(spec.model_output_dir, frame_hash="f", spec_hash="s", code_hash="c")
    around = Surroundings(world=ALONE, report=Report(), checkpoints=store, stop=StopRequest())
    with pytest.raises(DivergedError, match="the validation WMAE of epoch 1 is nan"):
        fit(model_config(spec, data.encoder), batches, validation, spec, around, Adjustments())


def foreign_file(output: Path) -> None:
    output.mkdir()
    (output / "precious").touch()


@pytest.mark.parametrize(
    ("make", "told"), [(foreign_file, "holds files and no bundle.json"), (Path.touch, "is a file, not a directory")]
)
def test_output_that_must_not_be_replaced_is_refused_before_the_training(
    tmp_path: Path, make: Callable[[Path], None], told: str
) -> None:
    spec = spec_for(TABLE, tmp_path)
    output = Path(spec.model_output_dir)
    make(output)
    with pytest.raises(BundleError, match=re.escape(f"{output} {told}")):
        run(spec, ALONE, Report(), refuse_to_learn)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "frame"]


@pytest.mark.parametrize("output", [".", "/", "..", "models/.."])
def test_output_without_a_name_of_its_own_is_refused(output: str) -> None:
    with pytest.raises(SpecError, match=r"spec field model_output_dir is .*; allowed: a directory with a name"):
        TrainSpec(frame_path="frame", model_output_dir=output)


def test_transformer_without_categories_is_refused() -> None:
    with pytest.raises(SpecError, match=r"spec field categorical_features is .*; allowed: one column or more"):
        TrainSpec(frame_path="frame", model_output_dir="bundle", model_type="tft", categorical_features=())


def test_column_of_text_among_the_numbers_is_refused_by_name(tmp_path: Path) -> None:
    spec = spec_for(TABLE, tmp_path, numeric_features=("sales_lag_1", "store_type"))
    with pytest.raises(FrameError, match="column store_type is of type string and does not hold numbers alone"):
        run(spec, ALONE, Report(), refuse_to_learn)


def with_timestamps(kind: pa.DataType) -> pa.Table:
    dates = TABLE["event_timestamp"].cast(kind)
    return TABLE.set_column(TABLE.schema.get_field_index("event_timestamp"), "event_timestamp", dates)


@pytest.mark.parametrize("split", [{}, {"cutoff_date": "2011-01-07"}], ids=["val_size", "cutoff_date"])
@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.date32(), pa.timestamp("s", "UTC")], ids=str)
@pytest.mark.parametrize("loading", ["memory", "stream"])
def test_dates_and_naive_timestamps_are_those_of_utc(
    tmp_path: Path, kind: pa.DataType, loading: str, split: dict[str, Any]
) -> None:
    spec = spec_for(with_timestamps(kind), tmp_path, **split)
    usual = Dataset.of(TABLE, spec, ALONE.device)
    other = prepare(read_manifest(spec.frame_path), spec, ALONE, loading)
    assert other.encoder == usual.encoder
    assert other.training_weeks == usual.training_weeks
    assert np.array_equal(other.validation.actual, usual.validation.actual)


def test_column_that_holds_no_times_is_refused_by_name() -> None:
    spec = TrainSpec(frame_path="frame", model_output_dir="bundle", timestamp="store_type")
    with pytest.raises(FrameError, match="column store_type is of type string; allowed: a date or a timestamp"):
        split_masks(TABLE, spec)


def test_missing_time_is_refused_by_its_row() -> None:
    times = [*TABLE["event_timestamp"].to_pylist()[:-1], None]
    position = TABLE.schema.get_field_index("event_timestamp")
    spec = TrainSpec(frame_path="frame", model_output_dir="bundle")
    with pytest.raises(FrameError, match="column event_timestamp is missing in 1 of the rows"):
        split_masks(TABLE.set_column(position, "event_timestamp", pa.array(times, pa.timestamp("us", "UTC"))), spec)


@pytest.mark.parametrize("content", [None, "", '{"rows": 1', "[]", '{"rows": 1}', '{"chunks": 3}'])
def test_frame_with_a_broken_manifest_is_refused(tmp_path: Path, content: str | None) -> None:
    frame = publish_frame(TABLE, tmp_path / "frame")
    manifest = frame / "manifest.json"
    manifest.unlink()
    if content is not None:
        manifest.write_text(content)
    with pytest.raises(FrameError, match=re.escape(f"manifest {manifest} ")):
        read_frame(frame)


@pytest.mark.parametrize("model_type", ["mlp", "tft"])
def test_training_without_a_gap_of_weeks_publishes_uncalibrated_quantiles(tmp_path: Path, model_type: str) -> None:
    small = {"hidden_dims": (4,), "tft_hidden_size": 4, "tft_num_heads": 1, "num_epochs": 1}
    spec = spec_for(TABLE, tmp_path, model_type=model_type, gap_weeks=0, **small)
    run(spec, ALONE, Report())
    assert load_model(spec.model_output_dir).spread == (1.0, 1.0)
    card = (Path(spec.model_output_dir) / "MODEL_CARD.md").read_text()
    assert "there was no gap of weeks to calibrate them on" in card
    assert datetime.date(2010, 2, 5).isoformat() in card
