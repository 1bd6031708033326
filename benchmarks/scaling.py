"""How cost grows with the number of series: ``python -m benchmarks.scaling [--size N] [--skip-training]``.

The sample data at N times the stores, through each stage of the graph on one machine with the embedded PostgreSQL; each
stage is a process of its own, whose peak resident size is reported, imports included. The training is one epoch of the
default model.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.processes import peak_mb
from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings

Stage = Callable[[PostgresSettings, Path], None]


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=float, default=1.0, help="times the 45 stores of the full data")
    parser.add_argument("--skip-training", action="store_true", help="leave out the longest stage")
    arguments = parser.parse_args()
    stages: dict[str, Stage] = {"tables": _tables, "frame": _frame, "materialization": _materialize, "read": _read}
    if not arguments.skip_training:
        stages["epoch"] = _epoch
    figures: dict[str, float] = {"size": arguments.size}
    with tempfile.TemporaryDirectory(prefix="bench-scaling-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)  # where the server has to run as 'nobody', that account must be able to enter
        _apart(_sample, arguments.size, folder)
        settings = PostgresSettings.embedded(folder / "postgres")
        try:
            print(f"{'stage':20}{'seconds':>10}{'peak RSS, MB':>14}")
            for stage, work in stages.items():
                seconds, megabytes = _apart(work, settings, folder)
                print(f"{stage:20}{seconds:10.1f}{megabytes:14,.0f}", flush=True)
                figures |= {f"{stage}_seconds": round(seconds, 1), f"{stage}_mb": round(megabytes)}
            figures |= _sizes(settings, folder)
        finally:
            embedded_postgres.stop(folder / "postgres")
    print(json.dumps(figures))
    return 0


def _apart(work: Callable[..., None], *arguments: Any) -> tuple[float, float]:
    """Seconds and peak resident MB of ``work`` in a process of its own, imports included."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_timed, work, *arguments).result()


def _timed(work: Callable[..., None], *arguments: Any) -> tuple[float, float]:
    started = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):
        work(*arguments)
    return time.monotonic() - started, peak_mb()


def _sample(size: float, folder: Path) -> None:
    from forecast_assets.sample_data import write_sample_data

    write_sample_data(folder / "landing", size=size)


def _tables(settings: PostgresSettings, folder: Path) -> None:
    """CSV files to the three feature tables, validated and indexed."""
    from forecast_assets.ingest.drop import read_drop
    from forecast_assets.ingest.feature_tables import sales_features_table, sales_windows_table, store_features_table
    from forecast_assets.ingest.publish import publish

    drop = read_drop(folder / "landing")
    for make in (sales_features_table, store_features_table, sales_windows_table):
        publish(make(drop), settings, run_id="")


def _frame(settings: PostgresSettings, folder: Path) -> None:
    """The point-in-time retrieval of all labelled weeks, written as Parquet chunks."""
    from feature_repo.features import TRAINING_SERVICE
    from feature_repo.store import apply_definitions, open_store
    from forecast_assets.frame_store import FrameStore
    from forecast_assets.sql import statement

    with open_store(settings) as store:
        apply_definitions(store)
        job: Any = store.get_historical_features(
            statement("labelled_rows"), store.get_feature_service(TRAINING_SERVICE)
        )
        with contextlib.closing(job.to_arrow_batches()) as batches:
            first = next(batches)
            with FrameStore(folder / "frames").stage(first.schema) as staged:
                for batch in chain([first], batches):
                    staged.write(batch)
                staged.publish(feature_service="", feature_service_hash="")


def _materialize(settings: PostgresSettings, folder: Path) -> None:  # noqa: ARG001 - as the other stages
    """Every series' newest features into the online store, on-demand features computed."""
    from benchmarks.full_size import live_keys
    from feature_repo.materialize import materialize
    from feature_repo.store import open_store

    with open_store(settings) as store:
        materialize(store, live_keys(settings)[1])


def _read(settings: PostgresSettings, folder: Path) -> None:  # noqa: ARG001 - as the other stages
    """The online features of all live series in one read."""
    from benchmarks.full_size import live_keys
    from feature_repo.features import ENTITY_KEYS, INFERENCE_SERVICE
    from feature_repo.online_reader import OnlineReader
    from feature_repo.store import open_store

    keys, _ = live_keys(settings)
    with open_store(settings) as store:
        columns = {name: [key[name] for key in keys] for name in ENTITY_KEYS}
        OnlineReader(store, INFERENCE_SERVICE).read(columns).raise_if_unknown()


def _epoch(settings: PostgresSettings, folder: Path) -> None:  # noqa: ARG001 - as the other stages
    """One epoch of the default model in one process, evaluation included."""
    import torch

    from forecast_assets.frame_store import FrameStore
    from trainer.distributed import World
    from trainer.job import run
    from trainer.report import Report
    from trainer.spec import TrainSpec

    current = FrameStore(folder / "frames").current()
    assert current is not None  # noqa: S101 - the stage before published it
    spec = TrainSpec(frame_path=str(current[0]), model_output_dir=str(folder / "model"), num_epochs=1)
    run(spec, World(rank=0, size=1, device=torch.device("cpu")), Report())


def _sizes(settings: PostgresSettings, folder: Path) -> dict[str, float]:
    with psycopg.connect(settings.url) as connection:
        rows, series, size = connection.execute(
            "SELECT (SELECT count(*) FROM sales_features WHERE weekly_sales IS NOT NULL), "
            "(SELECT count(*) FROM sales_windows), pg_database_size(current_database())"
        ).fetchone() or (0, 0, 0)
    files = {name: [path for path in (folder / name).rglob("*") if path.is_file()] for name in ("landing", "frames")}
    bytes_of = {name: sum(path.stat().st_size for path in paths) for name, paths in files.items()}
    return {
        "rows": rows,
        "series": series,
        "database_bytes": size,
        "csv_bytes": bytes_of["landing"],
        "frame_bytes": bytes_of["frames"],
    }


if __name__ == "__main__":
    raise SystemExit(main())
