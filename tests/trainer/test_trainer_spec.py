import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import SpecError
from trainer.spec import TrainSpec

PLACES: dict[str, Any] = {"frame_path": "frame", "model_output_dir": "bundle"}


def test_spec_survives_a_trip_through_its_file(tmp_path: Path) -> None:
    spec = TrainSpec(**PLACES, hidden_dims=(8, 4), learning_rate=1, numeric_features=("sales_lag_1",))
    spec.save(tmp_path / "spec.json")
    assert TrainSpec.load(tmp_path / "spec.json") == spec


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_source", "stream"),
        ("model_type", "forest"),
        ("backend", "mpi"),
        ("frame_path", ""),
        ("num_epochs", 0),
        ("num_epochs", 2.5),
        ("num_epochs", True),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("learning_rate", "fast"),
        ("dropout", 1.0),
        ("gap_weeks", -1),
        ("hidden_dims", []),
        ("hidden_dims", [8, 0]),
        ("hidden_dims", 8),
        ("tft_hidden_size", 0),
        ("tft_lstm_layers", 0),
        ("tft_num_heads", 0),
        ("tft_num_heads", 3),
        ("series", []),
        ("numeric_features", "sales_lag_1"),
        ("numeric_features", ["sales_lag_1", "sales_lag_1"]),
        ("numeric_features", ["weekly_sales"]),
    ],
)
def test_value_that_is_not_allowed_is_refused_by_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(SpecError) as refusal:
        TrainSpec.from_json(json.dumps({**PLACES, field: value}))
    assert str(refusal.value).startswith(f"spec field {field} is {value!r}; allowed: ")


def test_unknown_field_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="unknown fields: epochs, lr; allowed: frame_path, "):
        TrainSpec.from_json(json.dumps({**PLACES, "lr": 0.1, "epochs": 3}))


def test_missing_field_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="spec lacks fields: model_output_dir"):
        TrainSpec.from_json('{"frame_path": "frame"}')


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_document_that_is_not_an_object_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="spec is "):
        TrainSpec.from_json(text)


def test_file_that_cannot_be_read_is_refused_by_path(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"absent\.json cannot be read: No such file"):
        TrainSpec.load(tmp_path / "absent.json")


def test_what_the_launcher_imports_is_free_of_torch() -> None:
    modules = "trainer, trainer.spec, trainer.frame, trainer.baselines, trainer.metrics, trainer.inputs"
    script = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
