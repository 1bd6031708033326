"""Point-in-time retrieval at full size: ``python -m benchmarks.retrieval [--rows-factor N] [--skip-stock]``.

The training frame of the generated sample data (421,570 rows), in three ways: by this project's offline store, by
Feast's own PostgreSQL store on the same tables (once: it takes minutes), and, to know what the disk and the wire allow,
a plain Arrow scan of sales_features. Both frames are compared, row by row, with one that numpy builds from the tables.
Each run is in a process of its own, whose peak resident size is reported.

With ``--rows-factor`` the tables hold that many times the stores, and our side streams instead of building one table.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.processes import apart, peak_mb
from feature_repo.database import PostgresSettings
from feature_repo.features import ENTITY_KEYS, SALES_HISTORY, STORE_EXTERNAL, TIMESTAMP, TRAINING_SERVICE, names
from feature_repo.store import open_store
from forecast_assets.sql import statement

_STORES = 1000  # more than there are stores: the copies of a store are this far apart


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows-factor", type=int, default=1, help="times the sample data's rows (default: 1)")
    parser.add_argument("--skip-stock", action="store_true", help="leave out Feast's own store, which takes minutes")
    parser.add_argument("--repeat", type=int, default=3, help="runs of the fast sides, of which the median counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-retrieval-") as folder:
        Path(folder).chmod(0o755)  # where the server runs as an account of its own, that account must get in
        settings = PostgresSettings.embedded(Path(folder) / "postgres")
        _prepare(settings, Path(folder) / "drop", arguments.rows_factor)
        stream = arguments.rows_factor > 1
        scans = [apart(_scan, settings, stream) for _ in range(arguments.repeat)]
        ours = [apart(_ours, settings, stream) for _ in range(arguments.repeat)]
        stock = None if arguments.skip_stock else apart(_stock, settings, False)
    runs = {"scan": scans, "ours": ours} | ({"stock": [stock]} if stock else {})
    results = {name: _median(of_side) for name, of_side in runs.items()}
    print(f"{'':8}{'median s':>10}{'fastest':>10}{'slowest':>10}{'rows':>12}{'wrong rows':>12}{'peak RSS, MB':>14}")
    for name, result in results.items():
        wrong = f"{result['wrong_rows']:,}" if name != "scan" else ""
        times = [run["seconds"] for run in runs[name]]
        print(
            f"{name:8}{result['seconds']:10.2f}{min(times):10.2f}{max(times):10.2f}{result['rows']:12,}{wrong:>12}"
            f"{result['peak_rss_mb']:14,.0f}"
        )
    print(
        json.dumps(
            {
                "rows": results["ours"]["rows"],
                "wrong_rows": max(run["wrong_rows"] for run in ours),
                "seconds": round(results["ours"]["seconds"], 2),
                "times_of_scan": round(results["ours"]["seconds"] / results["scan"]["seconds"], 2),
                "stock_ratio": round(stock["seconds"] / results["ours"]["seconds"], 1) if stock else None,
                "stock_seconds": round(stock["seconds"], 2) if stock else None,
                "stock_wrong_rows": stock["wrong_rows"] if stock else None,
                "scan_seconds": round(results["scan"]["seconds"], 2),
                "peak_rss_mb": round(max(run["peak_rss_mb"] for run in ours)),
                "rows_factor": arguments.rows_factor,
            }
        )
    )
    return 0


def _prepare(settings: PostgresSettings, drop: Path, factor: int) -> None:
    """The feature tables of the sample data, and ``factor`` - 1 copies of every store; the registered features."""
    from feature_repo.definitions import ENTITIES, FEATURE_SERVICES, FEATURE_VIEWS
    from forecast_assets.ingest.drop import read_drop
    from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table
    from forecast_assets.ingest.publish import publish
    from forecast_assets.sample_data import write_sample_data

    write_sample_data(drop)
    content = read_drop(drop)
    for table in (sales_features_table(content), store_features_table(content)):
        publish(table, settings, run_id="")
        columns = table.rows.column_names
        copied = ", ".join(f"store + {_STORES} * copy" if column == "store" else column for column in columns)
        with adbc.connect(settings.url, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table.name} ({', '.join(columns)}) "  # noqa: S608 - names are ours
                f"SELECT {copied} FROM {table.name}, generate_series(1, {factor - 1}) copy"
            )
            cursor.execute(f"VACUUM ANALYZE {table.name}")
    with open_store(settings) as store:
        store.apply([*ENTITIES, *FEATURE_VIEWS, *FEATURE_SERVICES])


def _ours(settings: PostgresSettings, stream: bool) -> dict[str, float]:
    from feature_repo.retrieval_job import ArrowRetrievalJob

    with open_store(settings) as store:
        service = store.get_feature_service(TRAINING_SERVICE)
        started = time.monotonic()
        job: Any = store.get_historical_features(entity_df=statement("labelled_rows"), features=service)
        assert isinstance(job, ArrowRetrievalJob)  # noqa: S101
        if not stream:
            frame = job.to_arrow()
            seconds = time.monotonic() - started
            return {"seconds": seconds, "rows": frame.num_rows, "peak_rss_mb": peak_mb(), **_compare(settings, [frame])}
        # Writing what streams in is left out, as it is on the other side: the rows are counted and dropped.
        rows = sum(batch.num_rows for batch in job.to_arrow_batches())
        seconds, peak = time.monotonic() - started, peak_mb()
        again = (pa.Table.from_batches([batch]) for batch in job.to_arrow_batches())
        return {"seconds": seconds, "rows": rows, "peak_rss_mb": peak, **_compare(settings, again)}


def _stock(settings: PostgresSettings, stream: bool) -> dict[str, float]:
    del stream
    from feast import FeatureStore, RepoConfig

    with open_store(settings) as ours:
        config = ours.config
        options = config.offline_store.model_dump(exclude={"type"})
        stock = FeatureStore(
            config=RepoConfig(
                project=config.project,
                provider=config.provider,
                registry=config.registry.model_dump(),
                offline_store={**options, "type": "postgres"},
                online_store={"type": "sqlite"},
                entity_key_serialization_version=3,
                repo_path=config.repo_path,
            )
        )
        service = stock.get_feature_service(TRAINING_SERVICE)
        started = time.monotonic()
        frame = stock.get_historical_features(entity_df=statement("labelled_rows"), features=service).to_arrow()
        seconds = time.monotonic() - started
        registry: Any = stock.registry
        registry.write_engine.dispose()
        registry.read_engine.dispose()
    return {"seconds": seconds, "rows": frame.num_rows, "peak_rss_mb": peak_mb(), **_compare(settings, [frame])}


def _scan(settings: PostgresSettings, stream: bool) -> dict[str, float]:
    started = time.monotonic()
    with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM sales_features")
        rows = (
            sum(batch.num_rows for batch in cursor.fetch_record_batch()) if stream else len(cursor.fetch_arrow_table())
        )
    return {"seconds": time.monotonic() - started, "rows": rows, "peak_rss_mb": peak_mb()}


def _compare(settings: PostgresSettings, frames: Any) -> dict[str, float]:
    """How many rows are wrong, superfluous or missing, against the tables joined by numpy.

    Every entity row's very week is in both tables, so the truth is the row of that key and week itself.
    """
    with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT * FROM sales_features WHERE weekly_sales IS NOT NULL")
        sales = _by_key(cursor.fetch_arrow_table(), list(ENTITY_KEYS))
        cursor.execute("SELECT * FROM store_features")
        stores = _by_key(cursor.fetch_arrow_table(), ["store"])
    seen = np.zeros(len(sales[0]), dtype=bool)
    wrong = 0
    for frame in frames:
        right, place = _found(sales, frame, list(ENTITY_KEYS))
        of_store, store_place = _found(stores, frame, ["store"])
        right &= of_store
        for features, (_, truth), row in ((SALES_HISTORY, sales, place), (STORE_EXTERNAL, stores, store_place)):
            for name in names(features):
                right &= _same(frame[name], truth[name].take(pa.array(row)))
        # A right row counts once; its copies are wrong.
        first = np.unique(place[right & ~seen[place]])
        seen[first] = True
        wrong += len(right) - len(first)
    return {"wrong_rows": wrong + int(np.count_nonzero(~seen))}


def _by_key(table: pa.Table, keys: list[str]) -> tuple[np.ndarray[Any, Any], pa.Table]:
    codes = _codes(table, keys)
    order = np.argsort(codes)
    return codes[order], table.take(pa.array(order)).combine_chunks()


def _found(
    known: tuple[np.ndarray[Any, Any], pa.Table], frame: pa.Table, keys: list[str]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """For each row of the frame: whether its key is known, and its place there."""
    codes = _codes(frame, keys)
    place = np.minimum(np.searchsorted(known[0], codes), len(known[0]) - 1)
    return known[0][place] == codes, place


def _codes(table: pa.Table, keys: list[str]) -> np.ndarray[Any, Any]:
    """One number for keys and week."""
    days = table[TIMESTAMP].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() // 86_400_000_000
    code = np.zeros(len(table), dtype=np.int64)
    for key in keys:
        code = code * 100_000 + table[key].to_numpy()
    return code * 100_000 + days


def _same(found: pa.ChunkedArray, truth: pa.ChunkedArray) -> np.ndarray[Any, Any]:
    """Where two columns are equal, missing values included."""
    equal = pc.fill_null(pc.equal(found.cast(truth.type), truth), False)
    both_missing = pc.and_(pc.is_null(found), pc.is_null(truth))
    return pc.or_(equal, both_missing).to_numpy()


def _median(runs: list[dict[str, float]]) -> dict[str, float]:
    return sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]


if __name__ == "__main__":
    raise SystemExit(main())
