"""Where the bundles of a models folder lie, and which of them a reference names. Needs no torch.

models/bundles/<name>/   a bundle as the trainer published it
models/CHAMPION          the name of the bundle that serves
models/CANDIDATE         the name of the bundle trained last
"""

from pathlib import Path
from typing import Literal

Reference = Literal["CHAMPION", "CANDIDATE"]


def bundle_path(models: Path, name: str) -> Path:
    """The folder of a bundle, existing or to be published."""
    return models / "bundles" / name


def referenced_bundle(models: Path, reference: Reference) -> Path | None:
    """The folder of the bundle that ``reference`` names, or None where nothing is named yet."""
    try:
        name = (models / reference).read_text().strip()
    except FileNotFoundError:
        return None
    return bundle_path(models, name) if name else None
