"""Images, examples of Secrets, and Dagster's own configuration are what the manifests and the code take them for."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.checks.render import DEPLOY

SECRETS: dict[str, list[str]] = yaml.safe_load((DEPLOY / "secrets.yaml").read_text())


# What is imported under another name than it is installed by, or comes with what is.
DISTRIBUTIONS = {"yaml": "pyyaml", "sqlalchemy": "sqlalchemy", "psycopg_pool": "psycopg", "starlette": "fastapi"}
COME_WITH = {"pydantic": "fastapi", "google": "feast", "redis": "feast", "tqdm": "feast"}
# Imported inside functions, for what an image is not there for.
NOT_THERE: dict[str, set[str]] = {"trainer": set(), "service": {"ray", "matplotlib"}}


@pytest.mark.parametrize("name", ["trainer", "service"])
def test_an_image_has_what_its_code_imports_and_no_more_of_dagster_than_its_pipes(name: str) -> None:
    dockerfile = (DEPLOY / "images" / f"{name}.Dockerfile").read_text()
    (packages,) = re.findall(r"^ +(torch (?:.*\\\n)*.*)$", dockerfile, re.MULTILINE)
    installed = {re.sub(r"\[.*\]", "", part.strip('"')).lower() for part in packages.replace("\\", "").split()}
    folders = re.findall(r"^COPY (\w+) /app/\1$", dockerfile, re.MULTILINE)
    imported = {module for folder in folders for module in imported_by(DEPLOY.parent / folder)}
    outside = imported - sys.stdlib_module_names - set(folders) - NOT_THERE[name]
    wanted = {DISTRIBUTIONS.get(module) or COME_WITH.get(module) or module.replace("_", "-") for module in outside}
    assert wanted <= installed
    assert "dagster" not in installed


def imported_by(folder: Path) -> set[str]:
    """The top-level modules that the code in a folder imports anywhere."""
    found = set()
    for node in (node for path in folder.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_images_are_pinned_and_run_as_no_fixed_root() -> None:
    lock = (DEPLOY.parent / "requirements.lock").read_text()
    for path in (DEPLOY / "images").glob("*.Dockerfile"):
        text = path.read_text()
        assert re.search(r"^USER 1001:0$", text, re.MULTILINE), path.name
        assert "--constraint /build/requirements.lock" in text
        assert re.search(r"^ARG PYTHON=3\.11\.\d+-slim", text, re.MULTILINE)
    for package in ("torch", "numpy", "pyarrow", "matplotlib", "dagster-pipes", "nvidia-ml-py"):
        assert re.search(rf"^{package}==\d", lock, re.MULTILINE)


def test_examples_of_secrets_make_those_that_are_declared() -> None:
    external = list(yaml.safe_load_all((DEPLOY / "secrets" / "external-secrets.yaml").read_text()))
    stores = {document["metadata"]["name"] for document in external if document["kind"] == "SecretStore"}
    made = {}
    for document in (document for document in external if document["kind"] == "ExternalSecret"):
        assert document["spec"]["secretStoreRef"]["name"] in stores
        made[document["spec"]["target"]["name"]] = [entry["secretKey"] for entry in document["spec"]["data"]]
    assert made == SECRETS

    script = ["sh", str(DEPLOY / "secrets" / "new.sh")]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    secrets = {document["metadata"]["name"]: document["stringData"] for document in yaml.safe_load_all(printed)}
    assert {name: list(values) for name, values in secrets.items()} == SECRETS
    passwords = [values["password"] for values in secrets.values() if "password" in values]
    assert len(set(passwords)) == len(passwords) == 5
    assert min(map(len, passwords)) == 48


def test_runs_on_the_cluster_share_pools_as_on_a_laptop() -> None:
    """What one run reads, no other replaces meanwhile: the assets rely on it."""
    laptop = yaml.safe_load((DEPLOY.parent / "dagster.yaml").read_text())["concurrency"]["pools"]
    server = yaml.safe_load((DEPLOY / "server" / "dagster.yaml").read_text())["concurrency"]["pools"]
    chart = yaml.safe_load((DEPLOY / "helm" / "dagster.yaml").read_text())["concurrency"]
    assert laptop == server == {"granularity": "run", "default_limit": 1}
    assert (chart["enabled"], chart["pools"]) == (True, {"granularity": "run", "defaultLimit": 1})
