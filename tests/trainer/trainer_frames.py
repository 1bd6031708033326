"""Small made-up training frames, the same on every call."""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Grid = np.ndarray[Any, np.dtype[np.float64]]

FIRST_WEEK = datetime.date(2010, 2, 5)
LAGS = (1, 2, 3, 4, 51, 52, 53)


def made_up_table(*, weeks: int = 130, stores: int = 4, depts: int = 6, seed: int = 0) -> pa.Table:
    """Seasonal sales of every store and department, with holes, in the columns of a training frame."""
    random = np.random.default_rng(seed)
    store_S, dept_S = (grid.ravel() + 1 for grid in np.meshgrid(range(stores), range(depts), indexing="ij"))
    dates = [FIRST_WEEK + datetime.timedelta(weeks=week) for week in range(weeks)]
    phase_DW = 2 * np.pi * (np.arange(weeks) / 52 + random.random((depts, 1)))
    season_SW = np.exp(0.4 * np.sin(phase_DW))[dept_S - 1]
    noise_SW = np.exp(0.1 * random.standard_normal((len(dept_S), weeks)))
    sales_SW = np.exp(random.normal(9, 1, (len(dept_S), 1))) * season_SW * noise_SW
    sales_SW[random.random(sales_SW.shape) < 0.03] = np.nan
    features = {f"sales_lag_{lag}": _lag(sales_SW, lag) for lag in LAGS}
    features["sales_rolling_mean_4"] = _mean(sales_SW, 1, 4)
    features["sales_rolling_mean_12"] = _mean(sales_SW, 1, 12)
    features["sales_rolling_std_4"] = np.abs(_lag(sales_SW, 1) - _lag(sales_SW, 2))
    features["sales_rolling_mean_4_lag_52"] = _mean(sales_SW, 53, 56)
    features["temperature"] = 60 + 20 * np.sin(phase_DW[:1]) + random.normal(0, 4, sales_SW.shape)
    on_W = np.arange(weeks) >= weeks - 20
    features["markdown1"] = np.where(on_W, random.gamma(2, 3_000, sales_SW.shape), np.nan)
    sold_SW = ~np.isnan(sales_SW)
    series_N, week_N = np.nonzero(sold_SW)
    timestamps = [datetime.datetime(d.year, d.month, d.day, tzinfo=datetime.UTC) for d in dates]
    by_week = {
        "event_timestamp": pa.array(timestamps, pa.timestamp("us", "UTC")),
        "is_holiday": pa.array([d.isocalendar().week in (6, 36, 47, 52) for d in dates]),
        "week_of_year": pa.array([d.isocalendar().week for d in dates]),
        "month": pa.array([d.month for d in dates]),
        "quarter": pa.array([(d.month + 2) // 3 for d in dates]),
        "has_markdown": pa.array(on_W),
    }
    return pa.table(
        {
            "store": store_S[series_N],
            "dept": dept_S[series_N],
            "store_type": pa.array([("A", "B", "C")[store % 3] for store in store_S[series_N]]),
            "weekly_sales": sales_SW[sold_SW],
            **{name: pa.array(grid[sold_SW], from_pandas=True) for name, grid in features.items()},
            **{name: column.take(pa.array(week_N)) for name, column in by_week.items()},
        }
    )


def publish_frame(table: pa.Table, path: Path, *, chunk_rows: int = 2_000) -> Path:
    """Write `table` as a complete frame at `path`."""
    path.mkdir(parents=True)
    chunks = []
    for number, start in enumerate(range(0, table.num_rows, chunk_rows)):
        chunk = table.slice(start, chunk_rows)
        file = path / f"chunk-{number:05d}.parquet"
        pq.write_table(chunk, file)
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        chunks.append({"file": file.name, "rows": chunk.num_rows, "sha256": sha256})
    manifest = {
        "content_hash": hashlib.sha256(json.dumps(chunks).encode()).hexdigest(),
        "rows": table.num_rows,
        "columns": [{"name": field.name, "type": str(field.type)} for field in table.schema],
        "chunks": chunks,
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "_SUCCESS").touch()
    return path


def replaced(table: pa.Table, **columns: Any) -> pa.Table:
    """`table` with other values in some columns; one value stands for the whole column."""
    for name, values in columns.items():
        filled = values if isinstance(values, np.ndarray) else [values] * table.num_rows
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pa.array(filled, table.schema.field(name).type))
    return table


def _lag(sales_SW: Grid, lag: int) -> Grid:
    lagged_SW = np.full_like(sales_SW, np.nan)
    lagged_SW[:, lag:] = sales_SW[:, :-lag]
    return lagged_SW


def _mean(sales_SW: Grid, first: int, last: int) -> Grid:
    lags_LSW = np.stack([_lag(sales_SW, lag) for lag in range(first, last + 1)])
    present_SW = (~np.isnan(lags_LSW)).sum(0)
    return np.where(present_SW, np.nansum(lags_LSW, 0) / np.maximum(present_SW, 1), np.nan)
