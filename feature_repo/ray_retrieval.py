"""A retrieval fanned out over a Ray cluster: disjoint ranges of entity rows, one Parquet chunk per range.

The ranges are consecutive, so that the chunks one after the other are the frame that a single process retrieves, to the
bit and in order. Each task streams; no process holds more than a batch of it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq

from feature_repo.database import PostgresSettings
from feature_repo.store import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class RayRetrieval:
    """Where and how finely to fan out.

    Attributes:
        address: None for a Ray of this process's own, "auto" for the cluster that this machine is part of,
            "ray://host:10001" for a remote one. Its workers need this package, the database and ``folder``.
        tasks: into how many ranges the entity rows are cut.
        options: passed on to ``ray.init``, such as ``num_cpus``.
    """

    address: str | None = None
    tasks: int = 8
    options: dict[str, Any] | None = None

    def retrieve(self, settings: PostgresSettings, entity_query: str, feature_service: str, folder: Path) -> list[Path]:
        """Write the features of the entity rows to ``folder`` and return its chunks in order.

        Args:
            settings: the server, as the workers reach it.
            entity_query: must name a total order (``ORDER BY`` a unique key), since every task runs it.
            feature_service: the features to retrieve.
            folder: on storage that all workers share.

        Raises:
            ImportError: Ray is not installed: it is the extra ``ray``.
            RuntimeError: the rows changed while they were read: the chunks do not add up to one frame.
        """
        import ray

        query = entity_query.strip().rstrip(";")
        rows = _count(settings, query)
        size = max(1, -(-rows // self.tasks))
        folder.mkdir(parents=True, exist_ok=True)
        ranges = [(start, folder / f"chunk-{start // size:05d}.parquet") for start in range(0, max(rows, 1), size)]
        with _connected(self.address, self.options or {}):
            task = ray.remote(_write_range)
            written = ray.get(
                [task.remote(settings, query, feature_service, start, size, path) for start, path in ranges]
            )
        if sum(written) != rows or _count(settings, query) != rows:
            raise RuntimeError(
                f"{sum(written):,} rows retrieved for {rows:,} entity rows: they changed meanwhile, retrieve again"
            )
        return [path for _, path in ranges]


def _write_range(
    settings: PostgresSettings, query: str, feature_service: str, start: int, size: int, path: Path
) -> int:
    """Runs on a worker. The chunk appears under its name when it is complete."""
    with open_store(settings) as store:
        service = store.get_feature_service(feature_service)
        of_range = f"SELECT * FROM ({query}) all_rows LIMIT {size} OFFSET {start}"  # noqa: S608 - the caller's query
        job: Any = store.get_historical_features(entity_df=of_range, features=service)
        batches = job.to_arrow_batches()
        first = next(batches)
        rows = first.num_rows
        partial = path.with_name(f".{path.name}")
        with pq.ParquetWriter(partial, first.schema, compression="zstd") as writer:
            writer.write_batch(first)
            for batch in batches:
                writer.write_batch(batch)
                rows += batch.num_rows
        partial.rename(path)
    return rows


@contextmanager
def _connected(address: str | None, options: dict[str, Any]) -> Iterator[None]:
    """Ray for the length of the block; one that is connected already is used and left as it is."""
    import ray

    if ray.is_initialized():
        yield
        return
    # "local": without it Ray joins whatever cluster it finds on the machine.
    ray.init(address=address or "local", logging_level=logging.WARNING, **options)
    try:
        yield
    finally:
        ray.shutdown()


def _count(settings: PostgresSettings, query: str) -> int:
    with psycopg.connect(settings.url) as connection:
        counting = f"SELECT count(*) FROM ({query}) all_rows"  # noqa: S608
        (rows,) = connection.execute(counting.encode()).fetchone() or (0,)
    return int(rows)
