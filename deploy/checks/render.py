"""Rendering kustomizations into documents."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

DEPLOY = Path(__file__).resolve().parent.parent
OVERLAYS = sorted(path.parent.name for path in DEPLOY.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in DEPLOY.glob("components/*/kustomization.yaml"))


def render(folder: Path) -> list[Document]:
    """The documents of a kustomization.

    Raises:
        RuntimeError: kubectl cannot render it; the message is kubectl's.
    """
    built = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if built.returncode:
        raise RuntimeError(f"kubectl kustomize {folder}: {built.stderr.strip()}")
    return [document for document in yaml.safe_load_all(built.stdout) if document]


def overlay(name: str) -> list[Document]:
    """The documents of one of OVERLAYS."""
    return render(DEPLOY / "overlays" / name)


def with_components(names: Sequence[str]) -> list[Document]:
    """The documents of the base with some of COMPONENTS."""
    with tempfile.TemporaryDirectory() as folder:
        # Kustomize wants relative paths, from the folder's real one.
        there = Path(os.path.relpath(DEPLOY, Path(folder).resolve()))
        kustomization = {
            "namespace": "forecasting",
            "resources": [str(there / "base")],
            "components": [str(there / "components" / name) for name in names],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return render(Path(folder).resolve())


def label(document: Document) -> str:
    """Kind and name, as findings name documents."""
    return f"{document['kind']}/{document['metadata']['name']}"
