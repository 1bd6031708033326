"""Online reads at full size, ours beside stock Feast's: ``python -m benchmarks.online [--size S]``.

Both sides answer for the same live series from the same server, on-demand features included. Stock Feast computes
them in pandas, the obvious way; ours in one vectorised function, over the columns that the reader has read.
"""

import argparse
import contextlib
import gc
import io
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from feast import FeatureService, FeatureStore, Field
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64

from benchmarks.full_size import feature_tables, live_keys, stock_store, ttl_range
from feature_repo.definitions import ENTITIES, sales_history_features, store_external_features
from feature_repo.features import LABEL, SALES_HISTORY, names
from feature_repo.online_reader import OnlineReader
from feature_repo.store import open_store

SERVICE = "online_benchmark"
_ON_DEMAND = (
    *("temperature_normalized", "holiday_markdown_interaction", "markdown_momentum", "seasonal_sine"),
    *("seasonal_cosine", "sales_velocity", "sales_acceleration", "demand_stability_score"),
)


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="of the sample data; 1 is 421,570 rows")
    with feature_tables(parser.parse_args().size) as settings, open_store(settings) as ours:
        keys, week = live_keys(settings)
        stock = stock_store(settings)
        for store in (ours, stock):
            store.apply([*ENTITIES, sales_history_features, store_external_features, *on_demand_definitions()])
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                store.materialize(*ttl_range(week))
        reader = OnlineReader(ours, SERVICE, transform=_on_demand)
        reads = {
            "ours": lambda part: reader.read(_columns(part)).table.to_pydict(),
            "ours, get_online_features": _plain_read(ours),
            "stock": _plain_read(stock),
        }
        answers = [_rounded(read(keys)) for read in reads.values()]
        different = sum(answers[0][name] != other[name] for other in answers[1:] for name in other)
        results = {name: _measure(read, keys) for name, read in reads.items()}
        stock._get_provider().online_store._conn.close()  # type: ignore[attr-defined]
    print(f"{len(keys):,} series, {len(answers[0])} columns; milliseconds, medians unless said")
    print(f"{'':28}{'one key':>10}{'p99':>10}{'100 keys':>10}{'all':>10}")
    for name, result in results.items():
        print(f"{name:28}{''.join(f'{value:10.2f}' for value in result.values())}")
    prefixes = {"ours": "", "ours, get_online_features": "plain_", "stock": "stock_"}
    figures = {f"{prefixes[name]}{key}": round(v, 2) for name, result in results.items() for key, v in result.items()}
    print(json.dumps({"series": len(keys), **figures, "different_columns": different}))
    return 0 if different == 0 else 1


def _measure(read: Callable[[Any], Any], keys: list[dict[str, int]]) -> dict[str, float]:
    # Keys from all over the list, each other than the one before; a few unmeasured reads first.
    ones = [[keys[n * 7919 % len(keys)]] for n in range(500)]
    spacing = (len(keys) - 100) // 20
    one = _times(read, ones)
    return {
        "one_key_p50_ms": float(np.median(one)),
        "one_key_p99_ms": float(np.percentile(one, 99)),
        "hundred_keys_ms": float(np.median(_times(read, [keys[n * spacing :][:100] for n in range(20)]))),
        "all_series_ms": float(np.median(_times(read, [keys] * 7))),
    }


def _times(read: Callable[[Any], Any], requests: list[list[dict[str, int]]]) -> list[float]:
    for request in requests[:5]:
        read(request)
    gc.collect()
    times = []
    for request in requests:
        started = time.perf_counter()
        read(request)
        times.append((time.perf_counter() - started) * 1e3)
    return times


def _plain_read(store: FeatureStore) -> Callable[[Any], Any]:
    service = store.get_feature_service(SERVICE)
    return lambda keys: store.get_online_features(features=service, entity_rows=keys).to_dict()


def _columns(keys: list[dict[str, int]]) -> dict[str, list[int]]:
    return {name: [key[name] for key in keys] for name in keys[0]}


def _rounded(answer: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """On-demand values to eleven digits: pandas and numpy may differ in the last one."""
    return {
        name: [None if v is None else float(f"{v:.10e}") for v in values] if name in _ON_DEMAND else values
        for name, values in answer.items()
    }


def _on_demand(inputs: Any) -> dict[str, Any]:
    """The design's on-demand features, from arrays or from columns of a data frame."""
    lag1, lag2, lag4 = (inputs[f"sales_lag_{weeks}"] for weeks in (1, 2, 4))
    with np.errstate(divide="ignore", invalid="ignore"):
        velocity = (lag1 - lag2) / (lag2 + 1)
        season = 2 * np.pi * inputs["week_of_year"] / 52
        return {
            "temperature_normalized": np.clip((inputs["temperature"] - 5) / 95, 0, 1),
            "holiday_markdown_interaction": inputs["is_holiday"] * inputs["total_markdown"],
            "markdown_momentum": inputs["total_markdown"] / (lag1 + 1),
            "seasonal_sine": np.sin(season),
            "seasonal_cosine": np.cos(season),
            "sales_velocity": velocity,
            "sales_acceleration": velocity - (lag2 - lag4) / (lag4 + 1),
            "demand_stability_score": 1
            - np.clip(inputs["sales_rolling_std_4"] / (inputs["sales_rolling_mean_4"] + 1), 0, 1),
        }


def feature_transformations(inputs: pd.DataFrame) -> pd.DataFrame:
    """The obvious implementation in pandas."""
    season = 2 * np.pi * inputs["week_of_year"] / 52
    return pd.DataFrame(
        {
            "temperature_normalized": ((inputs["temperature"].astype(float) - 5) / 95).clip(0, 1),
            "holiday_markdown_interaction": inputs["is_holiday"].astype(float) * inputs["total_markdown"],
            "markdown_momentum": inputs["total_markdown"] / (inputs["sales_lag_1"].astype(float) + 1),
            "seasonal_sine": np.sin(season),
            "seasonal_cosine": np.cos(season),
        }
    )


def temporal_transformations(inputs: pd.DataFrame) -> pd.DataFrame:
    """The obvious implementation in pandas."""
    lag1, lag2, lag4 = (inputs[f"sales_lag_{weeks}"].astype(float) for weeks in (1, 2, 4))
    variation = inputs["sales_rolling_std_4"].astype(float) / (inputs["sales_rolling_mean_4"].astype(float) + 1)
    return pd.DataFrame(
        {
            "sales_velocity": (lag1 - lag2) / (lag2 + 1),
            "sales_acceleration": (lag1 - lag2) / (lag2 + 1) - (lag2 - lag4) / (lag4 + 1),
            "demand_stability_score": 1 - variation.clip(0, 1),
        }
    )


def on_demand_definitions() -> list[Any]:
    """The on-demand views in pandas, computed at each read, and the service that offers all features."""
    sources: list[Any] = [sales_history_features, store_external_features]
    views = [
        on_demand_feature_view(
            sources=sources, schema=[Field(name=name, dtype=Float64) for name in part], mode="pandas"
        )(function)
        for part, function in (
            (_ON_DEMAND[:5], feature_transformations),
            (_ON_DEMAND[5:], temporal_transformations),
        )
    ]
    stored = sales_history_features[[name for name in names(SALES_HISTORY) if name != LABEL]]
    return [*views, FeatureService(name=SERVICE, features=[stored, store_external_features, *views])]


if __name__ == "__main__":
    raise SystemExit(main())
