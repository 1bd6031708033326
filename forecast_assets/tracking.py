"""Experiment tracking in MLflow, where ``MLFLOW_TRACKING_URI`` is set: trainings as runs, the champion as an alias.

MLflow is a copy for those who compare models there. What serves is decided by the model store alone, so a tracking
server that is away costs a warning and nothing else.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "weekly-demand-forecast"
MODEL = "weekly-demand-forecast"
CHAMPION_ALIAS = "champion"
_EPOCH_METRICS = ("training_loss", "validation_loss", "wmae", "learning_rate")


def track_training(
    bundle: Path, facts: Mapping[str, Any], *, data_version: str, run_id: str, log: logging.Logger
) -> None:
    """Log one training: spec, epochs, scores and where its bundle is. A bundle is logged once.

    Args:
        facts: the bundle's sidecar.
        run_id: of the Dagster run that trained it.
    """
    with _client(log) as client:
        if client is None or _version_of(client, bundle.name) is not None:
            return
        found = client.get_experiment_by_name(EXPERIMENT)
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT)
        tags = {"dagster_run_id": run_id, "bundle": bundle.name, "data_version": data_version}
        run = client.create_run(experiment, run_name=bundle.name, tags=tags).info.run_id
        for name, value in facts["spec"].items():
            client.log_param(run, name, value)
        client.log_param(run, "frame_content_hash", facts["frame"]["content_hash"])
        for epoch in facts["history"]:
            for name in _EPOCH_METRICS:
                client.log_metric(run, name, epoch[name], step=epoch["epoch"])
        for name, value in facts["scores"].items():
            if isinstance(value, int | float):
                client.log_metric(run, f"eval_{name}", value)
        client.set_terminated(run)
        if not client.search_registered_models(f"name = '{MODEL}'"):
            client.create_registered_model(MODEL, description="The bundle is what is loaded; MLflow names its place.")
        client.create_model_version(MODEL, str(bundle), run, tags=tags)


def track_champion(bundle: Path, *, log: logging.Logger) -> None:
    """Let the alias ``champion`` name the version of ``bundle``, if that was logged."""
    with _client(log) as client:
        if client is not None and (version := _version_of(client, bundle.name)) is not None:
            client.set_registered_model_alias(MODEL, CHAMPION_ALIAS, version)


@contextmanager
def _client(log: logging.Logger) -> Iterator["MlflowClient | None"]:
    """A client where a server is configured. Its failures end the block with a warning."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        yield None
        return
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        log.warning("MLFLOW_TRACKING_URI is set but MLflow is not installed: pip install 'forecast-assets[mlflow]'")
        yield None
        return
    # By default it is tried for minutes, and a run would wait.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except MlflowException as error:
        log.warning(f"not tracked in MLflow, the model itself is not affected: {error}")


def _version_of(client: "MlflowClient", bundle: str) -> str | None:
    versions = client.search_model_versions(f"name = '{MODEL}' and tags.bundle = '{bundle}'")
    return versions[0].version if versions else None
