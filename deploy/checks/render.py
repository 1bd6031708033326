"""Rendering kustomizations into documents."""

import subprocess
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]

DEPLOY = Path(__file__).resolve().parent.parent
OVERLAYS = sorted(path.parent.name for path in DEPLOY.glob("overlays/*/kustomization.yaml"))


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


def label(document: Document) -> str:
    """Kind and name, as findings name documents."""
    return f"{document['kind']}/{document['metadata']['name']}"
