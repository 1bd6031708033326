"""CSV files to the training frame, beside a script without a feature store: ``python -m benchmarks.frame [--size S]``.

Ours validates the files, publishes the feature tables to PostgreSQL and joins them point in time through Feast. The
script is the one most would write instead: DuckDB reads the files, takes lags and windows by calendar week and joins
the stores; nothing is validated, kept, versioned or served. What a feature store costs is the ratio. Each side runs in
a process of its own, in turn, each time on a new database; values that differ are counted.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.processes import apart, peak_mb
from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings
from feature_repo.features import ENTITY_KEYS, SALES_HISTORY, STORE_EXTERNAL, TIMESTAMP, TRAINING_SERVICE, names
from forecast_assets.sample_data import write_sample_data

_LAGS = (1, 2, 3, 4, 51, 52, 53)
_MARKDOWNS = tuple(f"MarkDown{n}" for n in range(1, 6))
_THREADS = 2  # as ours has: this process and the server's
_RELATIVE = 1e-9  # a mean of the same numbers, added in another order

Side = Callable[[Path, PostgresSettings, Path], dict[str, float]]


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="of the sample data; 1 is 421,570 rows")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-frame-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)  # where the server runs as an account of its own, that account must get in
        write_sample_data(folder / "landing", size=arguments.size)
        server = PostgresSettings.embedded(folder / "postgres")
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "duckdb": []}
        try:
            for repeat in range(arguments.repeat):
                with psycopg.connect(server.url, autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE run_{repeat}")
                settings = replace(server, database=f"run_{repeat}")
                for side, work in (("ours", _ours), ("duckdb", _script)):
                    answer = folder / f"{side}.parquet"
                    runs[side].append(apart(work, folder / "landing", settings, answer))
        finally:
            embedded_postgres.stop(folder / "postgres")
        rows, different = _compare(*(pq.ParquetFile(folder / f"{side}.parquet").read() for side in runs))
    print(f"{rows:,} rows, {different:,} values differ")
    print(f"{'':10}{'median s':>10}{'fastest':>10}{'slowest':>10}{'peak RSS, MB':>14}")
    for side, results in runs.items():
        times = [result["seconds"] for result in results]
        peak = max(result["peak_mb"] for result in results)
        print(f"{side:10}{statistics.median(times):10.2f}{min(times):10.2f}{max(times):10.2f}{peak:14,.0f}")
    seconds = {side: statistics.median(result["seconds"] for result in results) for side, results in runs.items()}
    tables = statistics.median(result["tables_seconds"] for result in runs["ours"])
    figures = {
        "rows": rows,
        "different_values": different,
        "seconds": round(seconds["ours"], 2),
        "of_which_tables_seconds": round(tables, 2),
        "duckdb_seconds": round(seconds["duckdb"], 2),
        "duckdb_ratio": round(seconds["ours"] / seconds["duckdb"], 2),
        "peak_rss_mb": round(max(result["peak_mb"] for result in runs["ours"])),
        "duckdb_peak_rss_mb": round(max(result["peak_mb"] for result in runs["duckdb"])),
    }
    print(json.dumps(figures))
    return 0


def _ours(landing: Path, settings: PostgresSettings, answer: Path) -> dict[str, float]:
    from feature_repo.store import apply_definitions, open_store
    from forecast_assets.ingest.drop import read_drop
    from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table
    from forecast_assets.ingest.publish import publish
    from forecast_assets.sql import statement

    with open_store(settings) as store:
        apply_definitions(store)  # once per change of the definitions, not per drop: not measured
        started = time.perf_counter()
        drop = read_drop(landing)
        for table in (sales_features_table(drop), store_features_table(drop)):
            publish(table, settings, run_id="benchmark")
        published = time.perf_counter()
        service = store.get_feature_service(TRAINING_SERVICE)
        frame = store.get_historical_features(entity_df=statement("labelled_rows"), features=service).to_arrow()
        ended = time.perf_counter()
    pq.write_table(frame, answer)
    return {"seconds": ended - started, "tables_seconds": published - started, "peak_mb": peak_mb()}


def _script(landing: Path, _settings: PostgresSettings, answer: Path) -> dict[str, float]:
    import duckdb

    started = time.perf_counter()
    with duckdb.connect(config={"threads": _THREADS}) as connection:
        frame = connection.sql(_query(landing)).to_arrow_table()
    seconds = time.perf_counter() - started
    pq.write_table(frame, answer)
    return {"seconds": seconds, "peak_mb": peak_mb()}


def _query(landing: Path) -> str:
    """The script's one statement. A window by dates, not by rows: a series may lack weeks."""

    def between(first: int, last: int) -> str:
        return f"OVER (series RANGE BETWEEN INTERVAL {7 * first} DAY PRECEDING AND INTERVAL {7 * last} DAY PRECEDING)"

    def read(file: str) -> str:
        return f"read_csv('{landing / file}', nullstr='NA')"

    lags = ", ".join(f"any_value(Weekly_Sales) {between(weeks, weeks)} AS sales_lag_{weeks}" for weeks in _LAGS)
    markdowns = ", ".join(f"f.{name} AS {name.lower()}" for name in _MARKDOWNS)
    total = " + ".join(f"coalesce(f.{name}, 0)" for name in _MARKDOWNS)
    given = " OR ".join(f"f.{name} IS NOT NULL" for name in _MARKDOWNS)
    return f"""
        WITH sales AS (
            SELECT Store AS store, Dept AS dept, Date AS event_timestamp, Weekly_Sales AS weekly_sales,
                IsHoliday AS is_holiday, weekofyear(Date) AS week_of_year, month(Date) AS month,
                quarter(Date) AS quarter, {lags},
                avg(Weekly_Sales) {between(4, 1)} AS sales_rolling_mean_4,
                avg(Weekly_Sales) {between(12, 1)} AS sales_rolling_mean_12,
                stddev_samp(Weekly_Sales) {between(4, 1)} AS sales_rolling_std_4,
                avg(Weekly_Sales) {between(56, 53)} AS sales_rolling_mean_4_lag_52,
                date_diff('day', lag(Date) OVER series, Date) / 7 AS weeks_since_last_sale
            FROM {read("train.csv")}
            WINDOW series AS (PARTITION BY Store, Dept ORDER BY Date)
        )
        SELECT s.*, f.Temperature AS temperature, f.Fuel_Price AS fuel_price, f.CPI AS cpi,
            f.Unemployment AS unemployment, {markdowns}, {total} AS total_markdown, {given} AS has_markdown,
            t.Type AS store_type, t.Size AS store_size
        FROM sales s
        LEFT JOIN {read("features.csv")} f ON f.Store = s.store AND f.Date = s.event_timestamp
        LEFT JOIN {read("stores.csv")} t ON t.Store = s.store
        ORDER BY event_timestamp, s.store, dept"""  # noqa: S608 - the folder is ours


def _compare(ours: pa.Table, script: pa.Table) -> tuple[int, int]:
    """The number of rows, and of values that differ by more than rounding."""
    if ours.num_rows != script.num_rows:
        raise SystemExit(f"{ours.num_rows:,} rows, but the script has {script.num_rows:,}")
    order = [(name, "ascending") for name in (TIMESTAMP, *ENTITY_KEYS)]
    ours, script = ours.sort_by(order), script.sort_by(order)
    different = 0
    for name in (*ENTITY_KEYS, *names(SALES_HISTORY), *names(STORE_EXTERNAL)):
        if pa.types.is_string(ours[name].type):
            different += ours.num_rows - sum(a == b for a, b in zip(ours[name], script[name], strict=True))
            continue
        a, b = (np.asarray(table[name].cast(pa.float64()).to_numpy()) for table in (ours, script))
        # A deviation of nearly equal sales is what rounding leaves of it: as large as the sales allow.
        near = np.isclose(a, b, rtol=_RELATIVE, atol=1e-3 if name.endswith("std_4") else 1e-9, equal_nan=True)
        different += int((~near).sum())
    return ours.num_rows, different


if __name__ == "__main__":
    raise SystemExit(main())
