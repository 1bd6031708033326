"""A Temporal Fusion Transformer from frame to bundle and back."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from trainer_frames import made_up_table, publish_frame, replaced

from trainer.bundle import load_model, read_sidecar
from trainer.distributed import joined_world
from trainer.errors import FrameError
from trainer.evaluation import Evaluation
from trainer.forecaster import Forecaster
from trainer.frame import read_frame
from trainer.job import run
from trainer.report import Report
from trainer.spec import TrainSpec
from trainer.windows import WINDOW_COLUMN, validation_rows

TABLE = made_up_table(stores=2, depts=4)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> TrainSpec:
    """A finished training: its bundle lies where the spec says."""
    root = tmp_path_factory.mktemp("tft")
    torch.set_num_threads(1)
    spec = TrainSpec(
        frame_path=str(publish_frame(TABLE, root / "frame")),
        model_output_dir=str(root / "bundle"),
        model_type="tft",
        tft_hidden_size=8,
        tft_num_heads=2,
        num_epochs=4,
    )
    with joined_world(spec) as world:
        run(spec, world, Report())
    return spec


@pytest.fixture(scope="module")
def forecaster(spec: TrainSpec) -> Forecaster:
    return load_model(spec.model_output_dir)


def test_bundled_transformer_scores_what_the_training_reported_and_beats_the_baselines(
    spec: TrainSpec, forecaster: Forecaster
) -> None:
    rows = validation_rows(read_frame(spec.frame_path).table, spec)
    found = Evaluation.of(rows, forecaster.predict_quantiles(rows), spec)
    sidecar = read_sidecar(spec.model_output_dir)
    assert found.scores == pytest.approx(sidecar["scores"], rel=1e-6)
    assert found.interval == pytest.approx(sidecar["interval"], rel=1e-6)
    assert found.scores["wmae"] < min(baseline["wmae"] for baseline in sidecar["baselines"].values())


def test_table_without_windows_is_refused_by_the_column_it_lacks(forecaster: Forecaster) -> None:
    with pytest.raises(FrameError, match=f"lacks columns: {WINDOW_COLUMN}"):
        forecaster.predict(TABLE)


def test_forecast_reads_the_window(spec: TrainSpec, forecaster: Forecaster) -> None:
    rows = validation_rows(TABLE, spec).slice(0, 50)
    doubled = pa.array([[2 * sales for sales in window] for window in rows[WINDOW_COLUMN].to_pylist()])
    moved = rows.set_column(rows.schema.get_field_index(WINDOW_COLUMN), WINDOW_COLUMN, doubled)
    assert not np.allclose(forecaster.predict(moved), forecaster.predict(rows))


def test_unseen_series_without_any_history_get_sensible_quantiles(forecaster: Forecaster) -> None:
    table = TABLE.slice(0, 50)
    sales = [name for name in table.column_names if name.startswith("sales_")]
    cold = replaced(table, store=999, dept=999, **dict.fromkeys(sales))
    unknown = cold.append_column(WINDOW_COLUMN, pa.nulls(cold.num_rows, pa.list_(pa.float64())))
    quantile_NQ = forecaster.predict_quantiles(unknown)
    assert np.isfinite(quantile_NQ).all()
    assert (np.diff(quantile_NQ, axis=1) >= 0).all()
    assert ((quantile_NQ[:, 1] > 100) & (quantile_NQ[:, 1] < 1e6)).all()


def test_card_and_sidecar_tell_of_both_model_and_coverage(spec: TrainSpec) -> None:
    sidecar = read_sidecar(spec.model_output_dir)
    card = (Path(spec.model_output_dir) / "MODEL_CARD.md").read_text()
    assert "Temporal Fusion Transformer" in card
    assert f"they held {sidecar['interval']['coverage']:.1%}" in card
    assert sum(each["rows"] for each in sidecar["by_group"].values()) == sidecar["validation"]["rows"]
    assert sum(each["rows"] for each in sidecar["by_week"].values()) == sidecar["validation"]["rows"]
    assert set(sidecar["by_week"]) >= set(sidecar["validation"]["weeks"])
