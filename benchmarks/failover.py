"""A failover of PostgreSQL, seen by its clients: ``python -m benchmarks.failover [--size S] [--detection SECONDS]``.

A primary and its replicas run as `deploy/base/postgres/cluster.yaml` says, with all databases. The clients are in the
middle of their work, held there by locks, when the primary is killed; ``--detection`` seconds later a replica is
promoted. Dagster's runs keep their history in the same cluster, as `deploy/server/dagster.yaml` says.
"""

import argparse
import json
import logging
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg

from benchmarks.failover_clients import (
    Answers,
    Keys,
    StepResult,
    ask,
    commit,
    environment,
    hold,
    materialized,
    prepare,
    service,
    variables,
)
from benchmarks.failover_daemon import fail_over_under_daemon
from benchmarks.replicated_postgres import Cluster, replicated_postgres
from forecast_assets.assets.online import online_features
from forecast_assets.assets.training_frame import training_frame


@dataclass(frozen=True, slots=True)
class Failover:
    """What each client saw.

    Attributes:
        killed: when, by the monotonic clock.
        outage: seconds from the kill until the address led to the new primary.
        lost: numbers whose commit was answered and that are not there.
    """

    killed: float
    outage: float
    committing: Answers
    asking: Answers
    retrieval: StepResult
    materialization: StepResult
    lost: set[int]

    def seconds(self) -> dict[str, float]:
        """Seconds from the kill until each client was back."""
        return {
            "a primary is there": self.outage,
            "commits are answered": self.committing.back_after(self.killed),
            "forecasts are answered": self.asking.back_after(self.killed),
            "the training frame is done": self.retrieval.done - self.killed,
            "the online features are done": self.materialization.done - self.killed,
        }


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=float, default=0.1, help="share of the full data")
    parser.add_argument("--detection", type=float, default=5.0, help="seconds until the operator promotes a replica")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what clients log of refused connections
    warnings.simplefilter("ignore")
    with replicated_postgres() as cluster, tempfile.TemporaryDirectory(prefix="bench-failover-") as name:
        folder = Path(name)
        keys = prepare(cluster.settings, folder, size=arguments.size)
        with variables(environment(cluster.settings, folder)), service() as client:
            seen = fail_over(cluster, client, keys, detection=arguments.detection)
    daemon = fail_over_under_daemon(size=arguments.size, detection=arguments.detection)
    seconds = {**seen.seconds(), "the daemon's run is done": daemon.seconds}
    print(f"{'seconds from the kill until':32}{'':>8}  retries of the step")
    retries = {"the training frame is done": seen.retrieval, "the online features are done": seen.materialization}
    for what, value in seconds.items():
        print(f"{what:32}{value:8.1f}  {retries[what].retries if what in retries else ''}")
    print(f"runs that the daemon's drop took: {daemon.runs}, steps tried again: {daemon.retries}")
    print(f"{len(seen.committing.answered):,} commits answered, {len(seen.lost)} of them lost")
    print("\n".join(f"refused: {' '.join(reason.split())[:100]}" for reason in sorted(seen.asking.refusals)))
    figures = {what.replace("'s", "").replace(" ", "_"): round(value, 2) for what, value in seconds.items()}
    print(json.dumps({**figures, "commits": len(seen.committing.answered), "lost": len(seen.lost)}))
    failed = [what for what, result in retries.items() if not result.success]
    for what in failed:
        print(f"{what}: no, its run failed", file=sys.stderr)
    return 1 if failed or seen.lost else 0


def fail_over(cluster: Cluster, client: httpx.Client, keys: Keys, *, detection: float) -> Failover:
    """Kill the primary in the middle of a retrieval, a materialization, requests and commits."""
    stop = threading.Event()
    with ThreadPoolExecutor() as pool, hold(cluster.primary.settings) as held:
        try:
            committing = pool.submit(commit, cluster.settings, stop)
            asking = pool.submit(ask, client, keys, stop)
            # What stands in the way of its first write.
            held.lock("feast_online.materialized_versions", "EXCLUSIVE")
            materialization = pool.submit(materialized, online_features, {"full": True})
            held.until(1)
            # What stands in the way of the retrieval, but not of the count before it.
            held.lock("store_features", "ACCESS EXCLUSIVE")
            retrieval = pool.submit(materialized, training_frame)
            held.until(2)
            killed = time.monotonic()
            outage = cluster.fail_over(detection)
            results = retrieval.result(), materialization.result()
            _wait_for_answer(client, keys)
        finally:
            stop.set()
    numbers = committing.result().answered
    return Failover(killed, outage, committing.result(), asking.result(), *results, _missing(cluster, numbers))


def _wait_for_answer(client: httpx.Client, keys: Keys) -> None:
    while client.post("/predict", json=keys).status_code != httpx.codes.OK:
        time.sleep(0.1)


def _missing(cluster: Cluster, numbers: Sequence[int]) -> set[int]:
    with psycopg.connect(cluster.settings.url) as connection:
        return set(numbers) - {number for (number,) in connection.execute("SELECT number FROM committed").fetchall()}


if __name__ == "__main__":
    raise SystemExit(main())
