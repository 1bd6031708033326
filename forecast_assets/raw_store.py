"""Accepted drops as typed Parquet files named by content, so that later steps read exactly what was validated."""

import json
from pathlib import Path

import pyarrow.parquet as pq

from forecast_assets.atomic import read_reference, write_reference
from forecast_assets.ingest.drop import FILES, Drop, DropFile


class RawStore:
    """The accepted drops in one folder; ``CURRENT`` names the contents of the last one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, drop: Drop) -> None:
        """Keep the drop and make it the current one, in one step. The same contents again change nothing."""
        for file in drop.files:
            target = self._path(file.name, file.content_hash)
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.with_suffix(".partial")
                pq.write_table(file.table, temporary, compression="zstd")
                temporary.replace(target)
        described = {
            file.name: {"content_hash": file.content_hash, "rows": file.rows, "source": str(file.source)}
            for file in drop.files
        }
        write_reference(self.folder / "CURRENT", json.dumps(described, sort_keys=True))
        self._remove_others({file.content_hash for file in drop.files})

    def load(self) -> Drop:
        """The current drop.

        Raises:
            FileNotFoundError: no drop has been accepted yet.
        """
        current = read_reference(self.folder / "CURRENT")
        if current is None:
            raise FileNotFoundError(f"{self.folder} holds no accepted drop yet: materialize train_csv first")
        described = json.loads(current)
        train, features, stores = (
            DropFile(
                name=name,
                source=Path(described[name]["source"]),
                content_hash=described[name]["content_hash"],
                rows=described[name]["rows"],
                table=pq.read_table(self._path(name, described[name]["content_hash"])),
            )
            for name in FILES
        )
        return Drop(train, features, stores)

    def contents(self) -> dict[str, str]:
        """The content hash of each file of the current drop; empty before the first."""
        current = read_reference(self.folder / "CURRENT")
        return {name: file["content_hash"] for name, file in json.loads(current or "{}").items()}

    def switched_at(self) -> int:
        """When the current drop became it, in nanoseconds; 0 before the first."""
        reference = self.folder / "CURRENT"
        return reference.stat().st_mtime_ns if reference.exists() else 0

    def _path(self, name: str, content_hash: str) -> Path:
        return self.folder / Path(name).stem / f"{content_hash}.parquet"

    def _remove_others(self, kept: set[str]) -> None:
        for path in self.folder.glob("*/*.parquet"):
            if path.stem not in kept:
                path.unlink()
