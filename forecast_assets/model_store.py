"""Model bundles and the two references that name one: the candidate and the champion.

models/bundles/<name>/   a bundle as the trainer published it
models/CANDIDATE         the name of the bundle trained last
models/CHAMPION          the name of the bundle that serves
"""

from pathlib import Path

from forecast_assets.atomic import read_reference, write_reference


class ModelStore:
    """The bundles in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bundle(self, name: str) -> Path:
        """The folder of a bundle, existing or to be published."""
        return self.folder / "bundles" / name

    def candidate(self) -> Path | None:
        """The bundle trained last."""
        return self._referenced("CANDIDATE")

    def champion(self) -> Path | None:
        """The bundle that serves."""
        return self._referenced("CHAMPION")

    def set_candidate(self, bundle: Path) -> None:
        """Name ``bundle`` as the one trained last."""
        write_reference(self.folder / "CANDIDATE", bundle.name)

    def promote(self, bundle: Path) -> None:
        """Let ``bundle`` serve from now on: one atomic switch."""
        write_reference(self.folder / "CHAMPION", bundle.name)

    def _referenced(self, reference: str) -> Path | None:
        name = read_reference(self.folder / reference)
        return None if name is None else self.bundle(name)
