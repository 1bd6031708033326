"""Dagster Pipes over a TrainJob: launch it, follow it, and report only what it reported. No forecasting in here."""

from forecast_assets.trainjob.client import PipesTrainJobClient
from forecast_assets.trainjob.errors import JobFailedError, NoResultError, TrainJobError
from forecast_assets.trainjob.local import LocalLauncher

__all__ = ["JobFailedError", "LocalLauncher", "NoResultError", "PipesTrainJobClient", "TrainJobError"]
