"""Where the bundles of a models folder lie, and which of them a reference names. Needs no torch.

models/bundles/<name>/   a bundle as the trainer published it
models/CHAMPION          the name of the bundle that serves
models/CANDIDATE         the name of the bundle trained last
"""

from pathlib import Path
from typing import Literal

SIDECAR_FILE = "bundle.json"  # what every bundle holds

Reference = Literal["CHAMPION", "CANDIDATE"]


def bundle_path(models: Path, name: str) -> Path:
    """The folder of a bundle, existing or to be published."""
    return models / "bundles" / name


def referenced_bundle(models: Path, reference: Reference) -> Path | None:
    """The folder of the bundle that ``reference`` names, or None where nothing is named yet.

    Raises:
        ValueError: what is named cannot be a bundle of this folder.
    """
    try:
        name = (models / reference).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    if name in {".", ".."} or set(name) & {"/", "\\", "\0"}:
        raise ValueError(f"{models / reference} names {name!r}, which is no bundle: promote or train one again")
    return bundle_path(models, name) if name else None
