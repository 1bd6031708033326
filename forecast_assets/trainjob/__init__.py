"""Dagster Pipes over Kubeflow TrainJobs: launch, follow, and report only what they reported. No forecasting in here."""

from forecast_assets.trainjob.client import PipesTrainJobClient, echo_to_stdout
from forecast_assets.trainjob.container import ContainerPlatform
from forecast_assets.trainjob.errors import TrainJobError
from forecast_assets.trainjob.execution import CompletedTrainJob
from forecast_assets.trainjob.following import Patience
from forecast_assets.trainjob.kubernetes import KubernetesPlatform
from forecast_assets.trainjob.local import LocalPlatform
from forecast_assets.trainjob.observation import JobPlatform
from forecast_assets.trainjob.recovery import RecoveryPolicy, Remedy
from forecast_assets.trainjob.retention import Retention

__all__ = [
    "CompletedTrainJob",
    "ContainerPlatform",
    "JobPlatform",
    "KubernetesPlatform",
    "LocalPlatform",
    "Patience",
    "PipesTrainJobClient",
    "RecoveryPolicy",
    "Remedy",
    "Retention",
    "TrainJobError",
    "echo_to_stdout",
]
