"""Published training frames: Parquet chunks, a manifest and a completion marker, replaced as a whole.

frames/<content hash>/chunk-00000.parquet … manifest.json _SUCCESS
frames/CURRENT          the content hash of the last good frame
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.features import TIMESTAMP
from forecast_assets.atomic import publish_directory, read_reference, write_reference
from forecast_assets.content_hash import content_hash

ROWS_PER_CHUNK = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a frame holds, as written to ``manifest.json``. Weeks are ISO dates."""

    content_hash: str
    rows: int
    first_week: str
    last_week: str
    feature_service: str
    feature_service_hash: str
    columns: list[dict[str, str]]
    chunks: list[dict[str, str | int]]


class FrameStore:
    """The frames in one folder, of which the last two are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def publish(self, frame: pa.Table, *, feature_service: str, feature_service_hash: str) -> Manifest:
        """Write ``frame`` and make it the current one. The same content again is left as it is."""
        version = content_hash(frame)
        if self._is_complete(version):
            write_reference(self.folder / "CURRENT", version)
            return self._manifest(version)
        self.folder.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.folder))
        try:
            return self._publish(frame, version, staging, feature_service, feature_service_hash)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _publish(self, frame: pa.Table, version: str, staging: Path, service: str, service_hash: str) -> Manifest:
        weeks = pc.min_max(frame[TIMESTAMP]).as_py()
        manifest = Manifest(
            content_hash=version,
            rows=frame.num_rows,
            first_week=weeks["min"].date().isoformat(),
            last_week=weeks["max"].date().isoformat(),
            feature_service=service,
            feature_service_hash=service_hash,
            columns=[{"name": field.name, "type": str(field.type)} for field in frame.schema],
            chunks=[self._write_chunk(staging, frame, start) for start in range(0, frame.num_rows, ROWS_PER_CHUNK)],
        )
        (staging / "manifest.json").write_text(json.dumps(asdict(manifest), indent=2))
        (staging / "_SUCCESS").touch()
        previous = read_reference(self.folder / "CURRENT")
        shutil.rmtree(self.folder / version, ignore_errors=True)  # one without its completion marker
        publish_directory(staging, self.folder / version)
        write_reference(self.folder / "CURRENT", version)
        self._remove_all_but(version, previous)
        return manifest

    def current(self) -> tuple[Path, Manifest] | None:
        """The folder and manifest of the current frame, or None before the first."""
        version = read_reference(self.folder / "CURRENT")
        return None if version is None else (self.folder / version, self._manifest(version))

    def load(self) -> pa.Table:
        """The rows of the current frame.

        Raises:
            FileNotFoundError: no frame has been published yet.
        """
        current = self.current()
        if current is None:
            raise FileNotFoundError(f"{self.folder} holds no training frame yet: materialize training_frame first")
        folder, manifest = current
        return pa.concat_tables(pq.read_table(folder / str(chunk["file"])) for chunk in manifest.chunks)

    def _write_chunk(self, folder: Path, frame: pa.Table, start: int) -> dict[str, str | int]:
        rows = frame.slice(start, ROWS_PER_CHUNK)
        path = folder / f"chunk-{start // ROWS_PER_CHUNK:05d}.parquet"
        pq.write_table(rows, path, compression="zstd")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"file": path.name, "rows": rows.num_rows, "sha256": digest}

    def _is_complete(self, version: str) -> bool:
        return (self.folder / version / "_SUCCESS").exists()

    def _manifest(self, version: str) -> Manifest:
        return Manifest(**json.loads((self.folder / version / "manifest.json").read_text()))

    def _remove_all_but(self, *kept: str | None) -> None:
        for entry in os.scandir(self.folder):
            if entry.is_dir() and not entry.name.startswith(".") and entry.name not in kept:
                shutil.rmtree(entry.path)
