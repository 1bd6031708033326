"""CSV files to indexed feature tables: ``python -m benchmarks.ingest [--size S]``, on the generated full-size sample.

Beside ours: the usual pandas script (read_csv, groupby, shift and rolling, COPY), which validates nothing and takes
lags by row instead of by calendar week. Each side loads into a new, empty database three times, the first time with its
imports, in a process of its own, whose peak resident size is reported; and so does ours one more week onto full tables.
"""

import argparse
import io
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from benchmarks.processes import peak_mb
from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings

# What one side imports is not to count as the other's memory: imports are in the functions.
if TYPE_CHECKING:
    import pandas as pd

_REPEATS = 3
_LAST_WEEK_BUT_ONE = date(2012, 10, 19)
_KEY = ["Store", "Dept"]


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    from forecast_assets.sample_data import write_sample_data

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=float, default=1.0, help="of the sample data; 1 is 421,570 rows")
    size = parser.parse_args().size
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as folder:
        root = Path(folder).resolve()
        write_sample_data(root / "earlier", size=size, through=_LAST_WEEK_BUT_ONE)
        rows = write_sample_data(root / "full", size=size).train_rows
        server = PostgresSettings.embedded(root / "postgres")
        try:
            with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                (ours, peak), (week, _), (usual, usual_peak) = (
                    pool.apply(side, (root, server)) for side in (_ours, _one_week, _usual)
                )
        finally:
            embedded_postgres.stop(root / "postgres")
    print(f"{'':44}{'median s':>10}{'fastest':>10}{'slowest':>10}")
    for label, times in (
        ("CSVs to both tables, validated and indexed", ours),
        ("one more week onto full tables", week),
        ("the usual pandas script, nothing validated", usual),
    ):
        print(f"{label:44}{statistics.median(times):10.2f}{min(times):10.2f}{max(times):10.2f}")
    seconds, usual_seconds = statistics.median(ours), statistics.median(usual)
    print(
        json.dumps(
            {
                "rows": rows,
                "seconds": round(seconds, 2),
                "one_week_seconds": round(statistics.median(week), 2),
                "pandas_seconds": round(usual_seconds, 2),
                "pandas_ratio": round(usual_seconds / seconds, 1),
                "peak_rss_mb": round(peak),
                "pandas_peak_rss_mb": round(usual_peak),
            }
        )
    )
    return 0


def _ours(root: Path, server: PostgresSettings) -> tuple[list[float], float]:
    """Seconds of each repetition, and this process's peak, in MiB."""
    databases = [_new_database(server, f"full_{repeat}") for repeat in range(_REPEATS)]
    return [_seconds(partial(_ingest, root / "full", each)) for each in databases], peak_mb()


def _one_week(root: Path, server: PostgresSettings) -> tuple[list[float], float]:
    """The same of the last week, onto tables that hold all before it."""
    times = []
    for repeat in range(_REPEATS):
        database = _new_database(server, f"week_{repeat}")
        _ingest(root / "earlier", database)
        times.append(_seconds(partial(_ingest, root / "full", database)))
    return times, peak_mb()


def _usual(root: Path, server: PostgresSettings) -> tuple[list[float], float]:
    """The same of the usual script."""
    databases = [_new_database(server, f"usual_{repeat}") for repeat in range(_REPEATS)]
    return [_seconds(partial(_usual_script, root / "full", each)) for each in databases], peak_mb()


def _ingest(landing: Path, settings: PostgresSettings) -> None:
    from forecast_assets.ingest.drop import read_drop
    from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table
    from forecast_assets.ingest.publish import publish

    drop = read_drop(landing)
    for table in (sales_features_table(drop), store_features_table(drop)):
        publish(table, settings, run_id="benchmark")


def _usual_script(landing: Path, settings: PostgresSettings) -> None:
    import pandas as pd

    sales = pd.read_csv(landing / "train.csv", parse_dates=["Date"]).sort_values([*_KEY, "Date"])
    groups = sales.groupby(_KEY)["Weekly_Sales"]
    for lag in (1, 2, 3, 4, 51, 52, 53):
        sales[f"sales_lag_{lag}"] = groups.shift(lag)
    for weeks in (4, 12):
        sales[f"sales_rolling_mean_{weeks}"] = groups.transform(lambda s, w=weeks: s.shift(1).rolling(w, 1).mean())
    sales["sales_rolling_std_4"] = groups.transform(lambda s: s.shift(1).rolling(4, 2).std())
    calendar = sales["Date"].dt
    sales["week_of_year"], sales["month"], sales["quarter"] = (
        calendar.isocalendar().week,
        calendar.month,
        calendar.quarter,
    )
    stores = pd.read_csv(landing / "features.csv", parse_dates=["Date"]).merge(
        pd.read_csv(landing / "stores.csv"), on="Store"
    )
    with psycopg.connect(settings.url) as connection:
        for name, frame, key in (
            ("sales_features", sales, "store, dept, date"),
            ("store_features", stores, "store, date"),
        ):
            _copy(connection, name, frame)
            connection.execute(f"CREATE UNIQUE INDEX ON {name} ({key})")


def _copy(connection: psycopg.Connection[tuple[object, ...]], name: str, frame: "pd.DataFrame") -> None:
    types = {
        "int64": "bigint",
        "UInt32": "bigint",
        "int32": "int",
        "float64": "float8",
        "bool": "boolean",
        "object": "text",
    }
    columns = ", ".join(f"{c.lower()} {types.get(str(frame[c].dtype), 'timestamp')}" for c in frame.columns)
    connection.execute(f"CREATE TABLE {name} ({columns})")
    buffer = io.StringIO()
    frame.to_csv(buffer, index=False, header=False)
    with connection.cursor().copy(f"COPY {name} FROM STDIN (FORMAT csv)") as stream:
        stream.write(buffer.getvalue())


def _new_database(server: PostgresSettings, name: str) -> PostgresSettings:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return replace(server, database=name)


def _seconds(work: Callable[[], None]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


if __name__ == "__main__":
    raise SystemExit(main())
