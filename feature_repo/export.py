"""Writes a training frame to a folder, for a trainer that has Feast at hand: ``python -m feature_repo.export``.

    --source postgres_ray   from PostgreSQL, fanned out over the Ray cluster of FEAST_RAY_ADDRESS; by default over one
                            of this process's own
    --source feast_file     from the file offline store of the Feast repository in --repo
    --repo DIR              holds feature_store.yaml; PostgreSQL is read as this package's own definitions say
    --frame-path DIR        the frame's folder; it appears as a whole
    --chunk-size N          rows per chunk

Exit status 75: the database did not answer, and the same again may succeed.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.database import connect_settings
from feature_repo.features import ENTITY_KEYS, LABEL, TIMESTAMP, TRAINING_SERVICE
from feature_repo.ray_cluster import configured_address
from feature_repo.ray_retrieval import RayRetrieval

TRY_AGAIN = 75
_KEYS = ", ".join(ENTITY_KEYS)
LABELLED_ROWS = f"""
    SELECT {_KEYS}, {TIMESTAMP} FROM sales_features WHERE {LABEL} IS NOT NULL ORDER BY {TIMESTAMP}, {_KEYS}
"""  # noqa: S608 - constants of ours


def main() -> int:
    """Export as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="feature_repo.export", description="Write a training frame to a folder.")
    parser.add_argument("--source", choices=("postgres_ray", "feast_file"), required=True)
    parser.add_argument("--repo", type=Path, required=True)
    parser.add_argument("--frame-path", type=Path, required=True)
    parser.add_argument("--chunk-size", type=int, required=True)
    arguments = parser.parse_args()
    frame: Path = arguments.frame_path
    frame.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{frame.name}.", dir=frame.parent) as scratch:
            batches = (
                _over_ray(Path(scratch))
                if arguments.source == "postgres_ray"
                else _from_files(arguments.repo, arguments.chunk_size)
            )
            draft = Path(scratch) / "frame"
            with closing(batches):
                write_frame(draft, batches, arguments.chunk_size)
            draft.rename(frame)
    except psycopg.OperationalError as error:
        sys.stderr.write(f"{error}\n")
        return TRY_AGAIN
    return 0


def write_frame(folder: Path, batches: Iterator[pa.RecordBatch], chunk_rows: int) -> None:
    """Write batches as chunks, a manifest and the completion marker, in bounded memory.

    Raises:
        ValueError: there are no rows.
    """
    folder.mkdir()
    chunks: list[dict[str, Any]] = []
    pending: pa.Table | None = None

    def write(rows: pa.Table) -> None:
        path = folder / f"chunk-{len(chunks):05d}.parquet"
        pq.write_table(rows, path, compression="zstd")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        chunks.append({"file": path.name, "rows": rows.num_rows, "sha256": digest})

    for batch in batches:
        piece = pa.Table.from_batches([batch])
        pending = piece if pending is None else pa.concat_tables([pending, piece])
        while pending.num_rows >= chunk_rows:
            write(pending.slice(0, chunk_rows))
            pending = pending.slice(chunk_rows)
    if pending is not None and pending.num_rows:
        write(pending)
    if pending is None or not chunks:
        raise ValueError("there are no labelled rows to train on")
    manifest = {
        "content_hash": hashlib.sha256(json.dumps(chunks).encode()).hexdigest(),
        "rows": sum(chunk["rows"] for chunk in chunks),
        "columns": [{"name": field.name, "type": str(field.type)} for field in pending.schema],
        "chunks": chunks,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
    (folder / "_SUCCESS").touch()


def _over_ray(scratch: Path) -> Generator[pa.RecordBatch, None, None]:
    settings = connect_settings()
    psycopg.connect(settings.url).close()  # a database that does not answer is noticed before Ray starts
    address = configured_address() or "local"
    return RayRetrieval(address=address).batches(settings, LABELLED_ROWS, TRAINING_SERVICE, scratch)


def _from_files(repo: Path, chunk_rows: int) -> Generator[pa.RecordBatch, None, None]:
    """The labelled rows of the file that holds the label, joined piece by piece."""
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repo))
    service = store.get_feature_service(TRAINING_SERVICE)
    views = [store.get_feature_view(projection.name) for projection in service.feature_view_projections]
    source: Any = next(view.batch_source for view in views if LABEL in {field.name for field in view.features})
    rows = pq.read_table(source.path, columns=[*ENTITY_KEYS, TIMESTAMP, LABEL])
    rows = rows.filter(pc.is_valid(rows[LABEL])).drop_columns([LABEL])
    rows = rows.sort_by([(name, "ascending") for name in (TIMESTAMP, *ENTITY_KEYS)])
    for start in range(0, rows.num_rows, chunk_rows):
        entities = rows.slice(start, chunk_rows).to_pandas()
        yield from store.get_historical_features(entity_df=entities, features=service).to_arrow().to_batches()


if __name__ == "__main__":
    sys.exit(main())
