"""Dagster Pipes over a TrainJob: launch it, follow it, and report only what it reported. No forecasting in here."""

from forecast_assets.trainjob.client import PipesTrainJobClient
from forecast_assets.trainjob.errors import NoResultError, TrainJobError, TrainJobFailedError
from forecast_assets.trainjob.local import LocalLauncher

__all__ = ["LocalLauncher", "NoResultError", "PipesTrainJobClient", "TrainJobError", "TrainJobFailedError"]
