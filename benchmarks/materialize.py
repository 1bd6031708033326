"""All series into the online store at full size, ours beside stock Feast's: ``python -m benchmarks.materialize``.

Compared on the two views of stored features, with Feast's own offline and online store on the other side; for ours the
time of everything that the asset writes, on-demand features and windows included, is given besides, in full and from
the last time on. Each side runs in a process of its own, on the same server; memory is that process's largest resident
size.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from benchmarks.full_size import feature_tables, live_keys, stock_store, ttl_range
from benchmarks.processes import peak_mb
from feature_repo.database import VARIABLES, PostgresSettings, connect_settings
from feature_repo.definitions import sales_history_features, store_external_features
from feature_repo.materialize import materialize, materialize_incremental
from feature_repo.store import apply_definitions, open_store

_COMPARED = [sales_history_features.name, store_external_features.name]


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["ours", "stock"], help=argparse.SUPPRESS)
    side = parser.parse_args().side
    if side:
        print(json.dumps(_materialize(connect_settings(), ours=side == "ours")))
        return 0
    with feature_tables() as settings:
        keys, _ = live_keys(settings)
        results = {side: _in_process(side, settings) for side in ("ours", "stock")}
    print(f"{'':8}{'first, s':>10}{'again, s':>10}{'peak RSS, MB':>14}")
    for side, result in results.items():
        print(f"{side:8}{result['first']:10.2f}{result['again']:10.2f}{result['peak_rss_mb']:14,.0f}")
    print(
        json.dumps(
            {
                "series": len(keys),
                "seconds": round(results["ours"]["first"], 2),
                "again_seconds": round(results["ours"]["again"], 2),
                "all_views_seconds": round(results["ours"]["all_views"], 2),
                "incremental_seconds": round(results["ours"]["incremental"], 2),
                "stock_seconds": round(results["stock"]["first"], 2),
                "peak_rss_mb": round(results["ours"]["peak_rss_mb"]),
                "stock_peak_rss_mb": round(results["stock"]["peak_rss_mb"]),
            }
        )
    )
    return 0


def _materialize(settings: PostgresSettings, *, ours: bool) -> dict[str, float]:
    _, week = live_keys(settings)
    with open_store(settings) if ours else contextlib.nullcontext(stock_store(settings, offline=True)) as store:
        apply_definitions(store)
        stored = partial(store.materialize, *ttl_range(week), feature_views=_COMPARED)
        seconds = {name: _seconds(stored) for name in ("first", "again")}
        if ours:
            seconds["all_views"] = _seconds(partial(materialize, store, week))
            seconds["incremental"] = _seconds(partial(materialize_incremental, store, week))
    return {**seconds, "peak_rss_mb": peak_mb()}


def _seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        work()
    return time.perf_counter() - started


def _in_process(side: str, settings: PostgresSettings) -> dict[str, float]:
    address = (settings.host, str(settings.port), settings.database, settings.user, "", settings.sslmode)
    environment = {**os.environ, **dict(zip(VARIABLES, address, strict=True)), "FEAST_USAGE": "False"}
    command = [sys.executable, "-m", "benchmarks.materialize", "--side", side]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    raise SystemExit(main())
