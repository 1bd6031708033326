"""Trainings and the champion are told to MLflow, and nothing depends on its being there."""

import logging
from pathlib import Path
from typing import Any

import pytest

from forecast_assets.tracking import CHAMPION_ALIAS, EXPERIMENT, MODEL, track_champion, track_training

pytest.importorskip("mlflow", reason="MLflow is an extra")
# Raised by MLflow's own queries under SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

LOG = logging.getLogger("test")


def facts(wmae: float) -> dict[str, Any]:
    epochs = [
        {"epoch": n, "training_loss": 1 / n, "validation_loss": 2 / n, "wmae": wmae * n, "learning_rate": 0.1}
        for n in (1, 2)
    ]
    return {"spec": {"seed": 7}, "frame": {"content_hash": "abc"}, "history": epochs, "scores": {"wmae": wmae}}


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def test_a_training_is_logged_once_and_the_alias_follows_the_champion(uri: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    first, second = tmp_path / "first", tmp_path / "second"
    for bundle, wmae in ((first, 1_200.0), (second, 1_100.0), (first, 1_200.0)):
        track_training(bundle, facts(wmae), data_version=bundle.name * 2, run_id="r", log=LOG)
    track_champion(second, log=LOG)
    track_champion(tmp_path / "unknown", log=LOG)

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["metrics.eval_wmae"])
    assert [run.data.tags["bundle"] for run in runs] == ["second", "first"]
    assert runs[0].data.params == {"seed": "7", "frame_content_hash": "abc"}
    assert [(m.step, m.value) for m in client.get_metric_history(runs[0].info.run_id, "wmae")] == [
        (1, 1_100.0),
        (2, 2_200.0),
    ]
    champion = client.get_model_version_by_alias(MODEL, CHAMPION_ALIAS)
    assert champion.source == str(second)
    assert champion.tags["data_version"] == "secondsecond"


def test_without_a_configured_server_nothing_is_imported_or_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)

    track_training(tmp_path / "first", facts(1.0), data_version="v", run_id="r", log=LOG)

    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_costs_a_warning_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    track_training(tmp_path / "first", facts(1.0), data_version="v", run_id="r", log=LOG)

    assert "not tracked in MLflow, the model itself is not affected" in caplog.text
