"""The pods that the charts of Dagster and KubeRay make of our values, as far as our manifests concern them."""

from collections.abc import Iterator
from typing import Any

import yaml

from deploy.checks.render import DEPLOY, Document


def pods() -> Iterator[Document]:
    """Dagster's webserver, daemon, code locations and a run, Ray's head and a worker.

    Each has its labels, account, environment, ports and volumes.
    """
    values: dict[str, Any] = yaml.safe_load((DEPLOY / "helm" / "dagster.yaml").read_text())
    account = values["global"]["serviceAccountName"]
    storage = {"name": values["global"]["postgresqlSecretName"], "key": "postgresql-password"}
    environment = [
        {"name": "DAGSTER_PG_PASSWORD", "valueFrom": {"secretKeyRef": storage}},
        {"name": "DAGSTER_PG_HOST", "value": values["postgresql"]["postgresqlHost"]},
    ]
    parts = {
        "dagster-webserver": {**values["dagsterWebserver"], "port": 80},
        "dagster-daemon": values["dagsterDaemon"],
        "dagster-run": values["runLauncher"]["config"]["k8sRunLauncher"],
    }
    for deployment in values["dagster-user-deployments"]["deployments"]:
        parts[deployment["name"]] = deployment
    for name, part in parts.items():
        yield _pod(name, part, [*environment, *part.get("env", [])], account)
    values = yaml.safe_load((DEPLOY / "helm" / "ray.yaml").read_text())
    for name in ("head", "worker"):
        yield _pod(f"ray-{name}", values[name], values[name]["containerEnv"], "default")


def _pod(name: str, part: dict[str, Any], environment: list[Any], account: str) -> Document:
    container = {
        "name": name,
        "env": environment,
        "volumeMounts": part.get("volumeMounts", []),
        "ports": [{"containerPort": part["port"]}] if "port" in part else [],
    }
    spec = {"serviceAccountName": account, "containers": [container], "volumes": part.get("volumes", [])}
    return {"kind": "Pod", "metadata": {"name": name, "labels": part["labels"]}, "spec": spec}
