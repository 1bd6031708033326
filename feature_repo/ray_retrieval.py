"""A retrieval fanned out over a Ray cluster: disjoint ranges of entity rows, one Parquet chunk per range.

The ranges are consecutive, so that the chunks one after the other are the frame that a single process retrieves, to the
bit and in order. Every task reads the database as it was at one moment, whatever is loaded meanwhile, and streams: no
process holds more than a batch.
"""

import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.database import PostgresSettings
from feature_repo.ray_cluster import connected
from feature_repo.store import open_store

RETRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RayRetrieval:
    """Where and how finely to fan out.

    Attributes:
        address: as in ``ray_cluster``. The workers need this package, and the database and the folder of the chunks
            under the names that they have here.
        tasks: into how many ranges the entity rows are cut; None for one per CPU of the cluster.
    """

    address: str
    tasks: int | None = None

    def batches(
        self, settings: PostgresSettings, entity_query: str, feature_service: str, folder: Path
    ) -> Generator[pa.RecordBatch, None, None]:
        """The features of the entity rows, in order; at least one batch comes, if only to carry the schema.

        Ray repeats a task that fails. On leaving, finished or not, tasks are cancelled and chunks removed.

        Args:
            settings: the server, as the workers reach it.
            entity_query: must name a total order (``ORDER BY`` a unique key), since every task runs it.
            feature_service: the features to retrieve.
            folder: on storage that all workers share; the chunks are in a folder of their own therein.

        Raises:
            RuntimeError: a range could not be retrieved, however often it was tried.
        """
        import ray

        query = entity_query.strip().rstrip(";")
        folder.mkdir(parents=True, exist_ok=True)
        with (
            connected(self.address),
            _shared_snapshot(settings, query, feature_service) as (snapshot, rows),
            tempfile.TemporaryDirectory(prefix=".ray-", dir=folder, ignore_cleanup_errors=True) as chunks,
        ):
            tasks = self.tasks or max(1, int(ray.cluster_resources().get("CPU", 1)))
            size = max(1, -(-rows // tasks))
            ranges = [
                _Range(start, min(size, rows - start), Path(chunks) / f"chunk-{start // size:05d}.parquet")
                for start in range(0, max(rows, 1), size)
            ]
            task = ray.remote(max_retries=RETRIES, retry_exceptions=True)(_write_range)
            running = [task.remote(settings, query, feature_service, snapshot, part) for part in ranges]
            try:
                for part, result in zip(ranges, running, strict=True):
                    try:
                        ray.get(result)
                    except ray.exceptions.RayError as error:
                        raise RuntimeError(_failure(part, error)) from error
                    with pq.ParquetFile(part.path) as chunk:
                        yield from chunk.iter_batches()
                    part.path.unlink()
            finally:
                for result in running:
                    ray.cancel(result)


@dataclass(frozen=True, slots=True)
class _Range:
    start: int
    rows: int
    path: Path


def _write_range(settings: PostgresSettings, query: str, feature_service: str, snapshot: str, part: _Range) -> None:
    """Runs on a worker. The chunk appears under its name when it is complete."""
    of_range = f"SELECT * FROM ({query}) all_rows LIMIT {part.rows} OFFSET {part.start}"  # noqa: S608 - the caller's
    with open_store(settings) as store:
        job: Any = store.get_historical_features(of_range, store.get_feature_service(feature_service))
        batches = job.to_arrow_batches(snapshot=snapshot)
        first = next(batches)
        rows = first.num_rows
        partial = part.path.with_name(f".{part.path.name}")
        with pq.ParquetWriter(partial, first.schema, compression="zstd") as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
    if rows != part.rows:
        raise RuntimeError(f"{rows:,} rows came, not {part.rows:,}")
    partial.rename(part.path)


@contextmanager
def _shared_snapshot(settings: PostgresSettings, query: str, feature_service: str) -> Iterator[tuple[str, int]]:
    """A snapshot for all tasks, valid for the length of the block, and the number of entity rows in it."""
    with open_store(settings) as store:
        job: Any = store.get_historical_features(query, store.get_feature_service(feature_service))
    with psycopg.connect(settings.url) as connection:
        # Locks every table that is read: one that is replaced meanwhile would be empty in a snapshot from before.
        connection.execute(f"EXPLAIN {job.to_sql()}".encode())
        exported = connection.execute(
            f"SELECT pg_export_snapshot(), (SELECT count(*) FROM ({query}) all_rows)".encode()  # noqa: S608
        ).fetchone()
        assert exported is not None  # noqa: S101 - one row by construction
        yield str(exported[0]), int(exported[1])


def _failure(part: _Range, error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    return (
        f"rows {part.start:,} to {part.start + part.rows:,} could not be retrieved on the Ray cluster, "
        f"tried {RETRIES + 1} times: {type(cause).__name__}: {cause}"
    )
