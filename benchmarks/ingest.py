"""CSV files to indexed feature tables: ``python -m benchmarks.ingest``, on the generated full-size sample.

Beside ours: the usual pandas script (read_csv, groupby, shift and rolling, COPY), which validates nothing and takes
lags by row instead of by calendar week. Each side loads into a new, empty database; then ours takes one more week.
"""

import io
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path

import pandas as pd
import psycopg

from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.sample_data import write_sample_data

_REPEATS = 3
_LAST_WEEK_BUT_ONE = date(2012, 10, 19)
_KEY = ["Store", "Dept"]


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as folder:
        root = Path(folder).resolve()
        earlier, full = root / "earlier", root / "full"
        write_sample_data(earlier, through=_LAST_WEEK_BUT_ONE)
        rows = write_sample_data(full).train_rows
        server = PostgresSettings.embedded(root / "postgres")
        ours, one_week, usual = [], [], []
        for repeat in range(_REPEATS):
            database = _new_database(server, f"ours_{repeat}")
            _ingest(earlier, database)
            one_week.append(_seconds(partial(_ingest, full, database)))
            database = _new_database(server, f"full_{repeat}")
            ours.append(_seconds(partial(_ingest, full, database)))
            database = _new_database(server, f"usual_{repeat}")
            usual.append(_seconds(partial(_usual_script, full, database)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        embedded_postgres.stop(root / "postgres")
    figures = {
        name: statistics.median(times) for name, times in (("ours", ours), ("week", one_week), ("pandas", usual))
    }
    print(f"{'':44}{'median s':>10}{'fastest':>10}{'slowest':>10}")
    for label, times in (
        ("CSVs to both tables, validated and indexed", ours),
        ("one more week onto full tables", one_week),
        ("the usual pandas script, nothing validated", usual),
    ):
        print(f"{label:44}{statistics.median(times):10.2f}{min(times):10.2f}{max(times):10.2f}")
    print(
        json.dumps(
            {
                "rows": rows,
                "seconds": round(figures["ours"], 2),
                "one_week_seconds": round(figures["week"], 2),
                "pandas_seconds": round(figures["pandas"], 2),
                "pandas_ratio": round(figures["pandas"] / figures["ours"], 1),
                "peak_rss_mb": round(peak),
            }
        )
    )
    return 0


def _ingest(landing: Path, settings: PostgresSettings) -> None:
    drop = read_drop(landing)
    for table in (sales_features_table(drop), store_features_table(drop)):
        publish(table, settings, run_id="benchmark")


def _usual_script(landing: Path, settings: PostgresSettings) -> None:
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


def _copy(connection: psycopg.Connection[tuple[object, ...]], name: str, frame: pd.DataFrame) -> None:
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
