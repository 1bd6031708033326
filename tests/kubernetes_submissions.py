"""A job as the tests of the Kubernetes client submit it."""

from typing import Any

from kubeflow.trainer import CustomTrainerContainer

from forecast_assets.trainjob.observation import Submission

RESOURCES = {"cpu": 2, "memory": "4Gi"}
LABELS = {"dagster.trainjob/run-id": "r1", "dagster.trainjob/attempt": "0"}


def submission(name: str = "a-job", **kwargs: Any) -> Submission:
    env = kwargs.pop("env", {"DAGSTER_PIPES_CONTEXT": "{}"})
    trainer = CustomTrainerContainer(image="trainer:1", num_nodes=2, resources_per_node=RESOURCES, env=env)
    return Submission(name=name, trainer=trainer, labels=LABELS, **kwargs)
