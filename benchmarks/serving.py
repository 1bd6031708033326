"""The model service at full size, beside the obvious one: ``python -m benchmarks.serving``.

Each service runs in a process of its own, on the same database, with the same model on one thread, and is asked the
same number of times over keep-alive connections from this process; both must forecast the same. ``--soak`` says how
many requests memory is watched over.
"""

import argparse
import contextlib
import io
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.full_size import feature_tables, live_keys, stock_store, ttl_range
from benchmarks.obvious_service import BUNDLE
from benchmarks.online import on_demand_definitions
from benchmarks.processes import without_settings
from benchmarks.serving_clients import ask, ask_alone, forecasts
from feature_repo.database import VARIABLES, PostgresSettings
from feature_repo.definitions import (
    ENTITIES,
    demand_forecasting_service,
    sales_history_features,
    store_external_features,
)
from feature_repo.features import LABEL, TIMESTAMP
from feature_repo.materialize import materialize
from feature_repo.store import apply_definitions, open_store
from forecast_assets.frame_store import FrameStore
from forecast_assets.model_store import ModelStore
from trainer.distributed import World
from trainer.job import run
from trainer.report import Report
from trainer.spec import TrainSpec

CLIENTS = 16
REQUESTS = 1_000
# Forecasts may differ by this much: ours are computed in blocks of rows, whose sums are added in another order.
_RELATIVE = 1e-6
_SOAK_SECONDS = 240
Keys = Sequence[dict[str, int]]


@dataclass(frozen=True)
class Server:
    """A running service."""

    port: int
    process: "subprocess.Popen[bytes]"
    cold_start: float

    def rss_mb(self) -> float:
        """Resident memory of the process."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="share of the full data")
    parser.add_argument("--soak", type=int, default=50_000, help="requests over which memory is watched")
    arguments = parser.parse_args()
    with feature_tables(arguments.size) as settings, tempfile.TemporaryDirectory(prefix="bench-models-") as folder:
        keys = _prepare(settings, Path(folder))
        models = ModelStore(Path(folder) / "models")
        environment = {
            **without_settings(),
            **_address(settings),
            "SERVING_MODELS": str(models.folder),
            BUNDLE: str(models.bundle("model")),
        }
        with _started(environment, ["-m", "serving"], "/v2/health/ready") as server:
            answers = [forecasts(server.port, keys)]
            ours = _measure(server, keys)
            stages = _stages(server)
            soak = _soak(server, keys, arguments.soak)
            cold_start = server.cold_start
        obvious_command = [
            "-m",
            "uvicorn",
            "--factory",
            "benchmarks.obvious_service:create_app",
            "--log-level",
            "error",
        ]
        with _started(environment, obvious_command, "/ready") as server:
            answers.append(forecasts(server.port, keys))
            obvious = _measure(server, keys)
            obvious_stages = _obvious_stages(server, keys)
    print(f"{len(keys):,} series; milliseconds unless said")
    print(f"{'':10}{'one p50':>10}{'p99':>10}{f'{CLIENTS} clients/s':>14}{'p99':>10}{'all series':>12}")
    for name, figures in (("ours", ours), ("obvious", obvious)):
        values = list(figures.values())
        print(f"{name:10}{values[0]:10.2f}{values[1]:10.2f}{values[2]:14.0f}{values[3]:10.1f}{values[4]:12.1f}")
    for stage in ("features", "model"):
        ratio = obvious_stages[stage] / stages[stage]
        print(f"{stage}: {stages[stage]:.2f}, obvious {obvious_stages[stage]:.2f}, {ratio:.1f} times")
    different = int((~np.isclose(answers[0], answers[1], rtol=_RELATIVE, atol=0)).sum())
    if different:
        raise SystemExit(f"the services do not do the same: {different:,} of {len(keys):,} forecasts differ")
    figures = {
        "series": len(keys),
        "different_forecasts": different,
        **ours,
        "cold_start_seconds": cold_start,
        **soak,
        **{f"{stage}_ms": value for stage, value in stages.items()},
        **{f"obvious_{name}": value for name, value in obvious.items()},
        **{f"obvious_{stage}_ms": value for stage, value in obvious_stages.items()},
    }
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))
    return 0


def _prepare(settings: PostgresSettings, folder: Path) -> list[dict[str, int]]:
    """Both online stores filled, and a champion; returns all series."""
    keys, week = live_keys(settings)
    quiet = contextlib.redirect_stdout(io.StringIO())
    with open_store(settings) as store, quiet, contextlib.redirect_stderr(io.StringIO()):
        apply_definitions(store)
        materialize(store, week)
        # The size of the network counts here, not what it has learned.
        rows = f"SELECT store, dept, {TIMESTAMP} FROM sales_features WHERE {LABEL} IS NOT NULL AND store <= 3"  # noqa: S608
        frame = store.get_historical_features(rows, demand_forecasting_service).to_arrow()
        stock = stock_store(settings)
        stock.apply([*ENTITIES, sales_history_features, store_external_features, *on_demand_definitions()])
        stock.materialize(*ttl_range(week))
        stock._get_provider().online_store._conn.close()  # type: ignore[attr-defined]
        frames, models = FrameStore(folder / "frames"), ModelStore(folder / "models")
        frames.publish(frame, feature_service="", feature_service_hash="")
        current = frames.current()
        assert current is not None  # noqa: S101 - just published
        bundle = models.bundle("model")
        spec = TrainSpec(frame_path=str(current[0]), model_output_dir=str(bundle), num_epochs=1)
        run(spec, World(rank=0, size=1, device=torch.device("cpu")), Report())
        models.promote(bundle)
    return keys


@contextmanager
def _started(environment: dict[str, str], command: list[str], ready: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = time.perf_counter()
    options = ["--port", str(port)] if "uvicorn" in command else []
    process = subprocess.Popen([sys.executable, *command, *options], env={**environment, "SERVING_PORT": str(port)})
    try:
        while not _answers(f"http://127.0.0.1:{port}{ready}"):
            if process.poll() is not None or time.perf_counter() - started > 180:
                raise SystemExit(f"{' '.join(command)} did not start")
            time.sleep(0.02)
        yield Server(port, process, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own address
            return bool(response.status == 200)
    except OSError:
        return False


def _measure(server: Server, keys: Keys) -> dict[str, float]:
    one = ask_alone(server.port, keys, requests=REQUESTS)
    many, seconds = ask(server.port, keys, clients=CLIENTS, requests=REQUESTS * 2)
    every, _ = ask(server.port, [keys], clients=1, requests=7)
    return {
        "one_p50_ms": float(np.median(one)),
        "one_p99_ms": float(np.percentile(one, 99)),
        "requests_per_second": len(many) / seconds,
        "many_p99_ms": float(np.percentile(many, 99)),
        "all_series_ms": float(np.median(every)),
    }


def _stages(server: Server) -> dict[str, float]:
    """Mean milliseconds of the stages of a request of one series at a time."""
    keys = [{"store": 1, "dept": 1}]
    before = _totals(server)
    ask(server.port, keys, clients=1, requests=300)
    after = _totals(server)
    return {
        stage: 1e3 * (after[stage][0] - before[stage][0]) / (after[stage][1] - before[stage][1]) for stage in before
    }


def _totals(server: Server) -> dict[str, tuple[float, float]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as response:
        text = response.read().decode()
    return {
        stage: (
            _value(text, f'serving_stage_seconds_sum{{stage="{stage}"}}'),
            _value(text, f'serving_stage_seconds_count{{stage="{stage}"}}'),
        )
        for stage in ("wait", "features", "model", "answer")
    }


def _value(text: str, series: str) -> float:
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(series))


def _obvious_stages(server: Server, keys: Keys) -> dict[str, float]:
    measured = []
    for n in range(60):
        body = json.dumps(keys[n * 7919 % len(keys)]).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{server.port}/predict", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - our own address
            measured.append(json.load(response)[0])
    return {stage: 1e3 * float(np.mean([each[stage] for each in measured[10:]])) for stage in ("features", "model")}


def _soak(server: Server, keys: Keys, requests: int) -> dict[str, float]:
    """How memory grows over so many requests, after a fifth as many."""
    ask(server.port, keys, clients=CLIENTS, requests=requests // 5, limit=_SOAK_SECONDS / 5)
    early = server.rss_mb()
    times, _ = ask(server.port, keys, clients=CLIENTS, requests=requests, limit=_SOAK_SECONDS)
    if len(times) < requests:
        raise SystemExit(f"{len(times):,} of {requests:,} requests were answered within {_SOAK_SECONDS} s: see --soak")
    late = server.rss_mb()
    return {"soak_requests": requests, "soak_growth_mb": late - early, "rss_mb": late}


def _address(settings: PostgresSettings) -> dict[str, str]:
    values = (settings.host, str(settings.port), settings.database, settings.user, "", settings.sslmode)
    return dict(zip(VARIABLES, values, strict=True))


if __name__ == "__main__":
    raise SystemExit(main())
