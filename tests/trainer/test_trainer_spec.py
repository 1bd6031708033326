import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import SpecError
from trainer.notebook import training_func
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
        ("data_source", "feast_file"),
        ("loading", "disk"),
        ("amp_dtype", "float8"),
        ("use_amp", 1),
        ("cutoff_date", "1 March 2012"),
        ("sample_size", -1),
        ("checkpoint_every", 0),
        ("accumulation_steps", 0),
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
    named = "feast_repo_path is ''" if value == "feast_file" else f"{field} is {value!r}"
    assert str(refusal.value).startswith(f"spec field {named}; allowed: ")


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


def test_identity_changes_with_what_is_learned_and_not_with_what_a_recovery_changes() -> None:
    spec = TrainSpec(**PLACES)
    eased = TrainSpec(**PLACES, batch_size=64, learning_rate=1e-4, use_amp=True, timeout_sec=5.0, checkpoint_every=7)
    assert eased.identity() == spec.identity()
    assert TrainSpec(**PLACES, seed=1).identity() != spec.identity()


def test_function_for_a_notebook_works_from_its_text_alone(tmp_path: Path) -> None:
    """As the Kubeflow SDK ships it: the text, through an unquoted heredoc, and a call with keyword arguments."""
    text = inspect.getsource(training_func)
    assert not {"$", "\\", "`"} & set(text)
    (tmp_path / "job.py").write_text(f"{text}\ntraining_func(**{{'parameters': {{'frame_path': 'frame'}}}})\n")
    finished = subprocess.run([sys.executable, str(tmp_path / "job.py")], check=False, capture_output=True, text=True)
    assert finished.returncode == 2
    assert finished.stderr.strip().endswith("trainer: spec lacks fields: model_output_dir")
