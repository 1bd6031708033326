"""The pods that Dagster's chart makes of our values, as far as our manifests concern them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.checks.render import DEPLOY, Document

VALUES = DEPLOY / "helm" / "dagster.yaml"


def pods(path: Path = VALUES) -> Iterator[Document]:
    """Webserver, daemon, code locations and a run: labels, account, environment and volumes."""
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    account = values["global"]["serviceAccountName"]
    storage = {"name": values["global"]["postgresqlSecretName"], "key": "postgresql-password"}
    password = {"name": "DAGSTER_PG_PASSWORD", "valueFrom": {"secretKeyRef": storage}}
    host = {"name": "DAGSTER_PG_HOST", "value": values["postgresql"]["postgresqlHost"]}
    parts = {
        "dagster-webserver": values["dagsterWebserver"],
        "dagster-daemon": values["dagsterDaemon"],
        "dagster-run": values["runLauncher"]["config"]["k8sRunLauncher"],
    }
    for deployment in values["dagster-user-deployments"]["deployments"]:
        parts[deployment["name"]] = deployment
    for name, part in parts.items():
        port = 80 if name == "dagster-webserver" else part.get("port")
        container = {
            "name": "dagster",
            "env": [host, password, *part.get("env", [])],
            "volumeMounts": part.get("volumeMounts", []),
            "ports": [{"containerPort": port}] if port else [],
        }
        spec = {"serviceAccountName": account, "containers": [container], "volumes": part.get("volumes", [])}
        yield {"kind": "Pod", "metadata": {"name": name, "labels": part["labels"]}, "spec": spec}
