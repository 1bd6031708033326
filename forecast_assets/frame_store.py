"""Published training frames: Parquet chunks, a manifest and a completion marker, replaced as a whole.

frames/<content hash>/chunk-00000.parquet … manifest.json _SUCCESS (holds the hash of the manifest)
frames/CURRENT          the content hash of the last good frame
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.features import TIMESTAMP
from forecast_assets.atomic import (
    held,
    publish_directory,
    read_reference,
    remove_unless_held,
    staging_directory,
    write_reference,
)
from forecast_assets.content_hash import ContentHasher, content_hash

ROWS_PER_CHUNK = 100_000


class DamagedFrameError(OSError):
    """A published frame is not what was written; the message says which file, and what to do."""


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
    """The frames in one folder, of which the last two are kept, and those that are being trained on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def publish(self, frame: pa.Table, *, feature_service: str, feature_service_hash: str) -> Manifest:
        """Write ``frame`` and make it the current one. The same content again is left as it is."""
        version = content_hash(frame)
        if self._is_complete(version):
            write_reference(self.folder / "CURRENT", version)
            return self._manifest(version)
        with self.stage(frame.schema) as staged:
            staged.write(frame)
            return staged.publish(feature_service=feature_service, feature_service_hash=feature_service_hash)

    @contextmanager
    def stage(self, schema: pa.Schema) -> Iterator["StagedFrame"]:
        """A frame to be written piece by piece, in bounded memory, which nobody sees before it is published.

        Leaving the ``with`` block without having published it removes what was written; what a killed process has left
        goes with the next frame.
        """
        with staging_directory(self.folder) as staging:
            yield StagedFrame(self, staging, schema)

    def _publish(self, staging: Path, manifest: Manifest) -> Manifest:
        version = manifest.content_hash
        if self._is_complete(version):
            write_reference(self.folder / "CURRENT", version)
            return self._manifest(version)
        described = json.dumps(asdict(manifest), indent=2).encode()
        (staging / "manifest.json").write_bytes(described)
        (staging / "_SUCCESS").write_text(hashlib.sha256(described).hexdigest())
        previous = read_reference(self.folder / "CURRENT")
        shutil.rmtree(self.folder / version, ignore_errors=True)  # one without its completion marker
        publish_directory(staging, self.folder / version)
        write_reference(self.folder / "CURRENT", version)
        self._remove_all_but(version, previous)
        return manifest

    def current(self) -> tuple[Path, Manifest] | None:
        """The folder and manifest of the current frame, or None before the first.

        Raises:
            DamagedFrameError: its manifest cannot be read.
        """
        version = read_reference(self.folder / "CURRENT")
        return None if version is None else (self.folder / version, self._manifest(version))

    @contextmanager
    def in_use(self, version: str) -> Iterator[None]:
        """For the length of the block the frame stays, however many are published meanwhile.

        Processes on other machines see that only where the shared volume's ``flock`` holds between machines; elsewhere
        the frame is safe until two more are published.

        Raises:
            DamagedFrameError: it is gone: others have been published.
        """
        with ExitStack() as holding:
            try:
                holding.enter_context(held(self.folder / version))
            except FileNotFoundError:
                raise DamagedFrameError(
                    f"frame {version[:12]} is gone, because newer ones have been published meanwhile: start again from "
                    "the present one"
                ) from None
            yield

    def previous(self) -> pa.Table | None:
        """The rows of the frame before the current one, or None if there was none."""
        current = read_reference(self.folder / "CURRENT")
        others = [path for path in self.folder.glob("*/_SUCCESS") if path.parent.name != current]
        newest_first = sorted(others, key=lambda path: path.stat().st_mtime, reverse=True)
        for path in newest_first:
            with suppress(DamagedFrameError):
                return self._rows(path.parent)
        return None

    def load(self) -> pa.Table:
        """The rows of the current frame.

        Raises:
            FileNotFoundError: no frame has been published yet.
            DamagedFrameError: a file is missing or is not the one that was written.
        """
        current = self.current()
        if current is None:
            raise FileNotFoundError(f"{self.folder} holds no training frame yet: materialize training_frame first")
        return self._rows(current[0])

    def _rows(self, folder: Path) -> pa.Table:
        chunks = self._checked_chunks(folder.name)
        return pa.concat_tables(pq.read_table(pa.BufferReader(chunk)) for chunk in chunks)

    def _is_complete(self, version: str) -> bool:
        if not (self.folder / version / "_SUCCESS").exists():
            return False
        try:
            return all(self._checked_chunks(version))
        except DamagedFrameError:
            return False

    def _checked_chunks(self, version: str) -> Iterator[bytes]:
        for chunk in self._manifest(version).chunks:
            path = self.folder / version / str(chunk["file"])
            content = path.read_bytes() if path.exists() else b""
            if hashlib.sha256(content).hexdigest() != chunk["sha256"]:
                raise DamagedFrameError(f"{path} is missing or damaged: materialize training_frame again")
            yield content

    def _manifest(self, version: str) -> Manifest:
        path = self.folder / version / "manifest.json"
        try:
            described, marker = path.read_bytes(), path.with_name("_SUCCESS").read_text()
            manifest = Manifest(**json.loads(described))
        except (OSError, ValueError, TypeError):
            manifest = None
        # The marker of a frame of an earlier release is empty.
        if manifest is None or (marker and marker != hashlib.sha256(described).hexdigest()):
            raise DamagedFrameError(f"{path} is missing or damaged: materialize training_frame again")
        return manifest

    def _remove_all_but(self, *kept: str | None) -> None:
        for entry in os.scandir(self.folder):
            if entry.is_dir() and not entry.name.startswith(".") and entry.name not in kept:
                remove_unless_held(Path(entry.path))


class StagedFrame:
    """A frame in the making, from ``FrameStore.stage``."""

    def __init__(self, store: FrameStore, folder: Path, schema: pa.Schema) -> None:
        self._store = store
        self._folder = folder
        self._schema = schema
        self._hasher = ContentHasher(schema)
        self._pending: pa.Table = schema.empty_table()
        self._chunks: list[dict[str, str | int]] = []
        self._times: list[datetime] = []

    def write(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Append rows. Chunks and hash are those of the whole frame, however it is cut into pieces.

        Raises:
            ValueError: the rows have other columns than the frame.
        """
        self._hasher.update(rows)
        piece = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        if piece.num_rows:
            weeks = pc.min_max(piece[TIMESTAMP]).as_py()
            self._times = [min([*self._times, weeks["min"]]), max([*self._times, weeks["max"]])]
        self._pending = pa.concat_tables([self._pending, piece])
        while self._pending.num_rows >= ROWS_PER_CHUNK:
            self._write_chunk(self._pending.slice(0, ROWS_PER_CHUNK))
            self._pending = self._pending.slice(ROWS_PER_CHUNK)

    def publish(self, *, feature_service: str, feature_service_hash: str) -> Manifest:
        """Make this the current frame. The same content again is left as it is.

        Raises:
            ValueError: no rows have been written.
        """
        if not self._times:
            raise ValueError("the frame has no rows: a frame to train on needs some")
        if self._pending.num_rows:
            self._write_chunk(self._pending)
            self._pending = self._schema.empty_table()
        first, last = self._times
        manifest = Manifest(
            content_hash=self._hasher.hexdigest(),
            rows=sum(int(chunk["rows"]) for chunk in self._chunks),
            first_week=first.date().isoformat(),
            last_week=last.date().isoformat(),
            feature_service=feature_service,
            feature_service_hash=feature_service_hash,
            columns=[{"name": field.name, "type": str(field.type)} for field in self._schema],
            chunks=self._chunks,
        )
        return self._store._publish(self._folder, manifest)

    def _write_chunk(self, rows: pa.Table) -> None:
        path = self._folder / f"chunk-{len(self._chunks):05d}.parquet"
        pq.write_table(rows, path, compression="zstd")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self._chunks.append({"file": path.name, "rows": rows.num_rows, "sha256": digest})
