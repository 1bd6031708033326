"""Accepted drops as typed Parquet files named by content, so that later steps read exactly what was validated."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from forecast_assets.atomic import read_reference, replacing, write_reference
from forecast_assets.ingest.drop import FILES, Drop, DropFile


class DamagedDropError(OSError):
    """What was kept of the accepted drop is not what was written; the message says which file, and what to do."""


class RawStore:
    """The accepted drops in one folder; ``CURRENT`` names the contents of the last one.

    Sources beside that folder are kept relative to it, so that the data may move to another place.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, drop: Drop) -> None:
        """Keep the drop and make it the current one, in one step. The same contents again change nothing."""
        known = {each["content_hash"]: each.get("sha256") for each in self._current().values()}
        described = {}
        for file in drop.files:
            target = self._path(file.name, file.content_hash)
            if not target.exists() or _sha256(target) != known.get(file.content_hash):
                target.parent.mkdir(parents=True, exist_ok=True)
                with replacing(target) as temporary:  # two runs may keep the same drop at once
                    pq.write_table(file.table, temporary, compression="zstd")
            described[file.name] = {
                "content_hash": file.content_hash,
                "rows": file.rows,
                "source": str(self._relative(file.source)),
                "sha256": _sha256(target),
            }
        write_reference(self.folder / "CURRENT", json.dumps(described, sort_keys=True))
        self._remove_others({file.content_hash for file in drop.files})

    def load(self) -> Drop:
        """The current drop.

        Raises:
            FileNotFoundError: no drop has been accepted yet.
            DamagedDropError: a file is missing or is not the one that was written.
        """
        if not (self.folder / "CURRENT").exists():
            raise FileNotFoundError(f"{self.folder} holds no accepted drop yet: materialize train_csv first")
        described = self._current()
        for name in FILES:
            self._check(name, described.get(name, {}))
        train, features, stores = (
            DropFile(
                name=name,
                source=self.folder.parent / described[name]["source"],
                content_hash=described[name]["content_hash"],
                rows=described[name]["rows"],
                table=pq.read_table(self._path(name, described[name]["content_hash"])),
            )
            for name in FILES
        )
        return Drop(train, features, stores)

    def contents(self) -> dict[str, str]:
        """The content hash of each file of the current drop; empty before the first."""
        return {name: file["content_hash"] for name, file in self._current().items()}

    def came_from(self) -> Path | None:
        """The folder that the current drop was read from; None before the first."""
        return next(((self.folder.parent / file["source"]).parent for file in self._current().values()), None)

    def switched_at(self) -> int:
        """When the current drop became it, in nanoseconds; 0 before the first."""
        reference = self.folder / "CURRENT"
        return reference.stat().st_mtime_ns if reference.exists() else 0

    def _current(self) -> dict[str, dict[str, Any]]:
        """What ``CURRENT`` says of each file; nothing where it is damaged."""
        try:
            described = json.loads(read_reference(self.folder / "CURRENT") or "{}")
            return {name: described[name] for name in FILES if "content_hash" in described[name]}
        except (ValueError, LookupError, TypeError):
            return {}

    def _check(self, name: str, described: dict[str, Any]) -> None:
        path = self._path(name, described.get("content_hash", "?"))
        expected = described.get("sha256")
        if not path.exists() or (expected is not None and _sha256(path) != expected):
            raise DamagedDropError(
                f"{path}, kept of the accepted {name}, is missing or damaged: materialize train_csv, features_csv and "
                "stores_csv again, from the same drop or a later one"
            )

    def _relative(self, source: Path) -> Path:
        return source.relative_to(self.folder.parent) if source.is_relative_to(self.folder.parent) else source

    def _path(self, name: str, content_hash: str) -> Path:
        return self.folder / Path(name).stem / f"{content_hash}.parquet"

    def _remove_others(self, kept: set[str]) -> None:
        for path in self.folder.glob("*/*.parquet"):
            if path.stem not in kept:
                path.unlink()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
