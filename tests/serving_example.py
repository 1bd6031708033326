"""What the tests of the model service share: features, two models, and the process of the service."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import torch

from benchmarks.full_size import live_keys
from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings
from feature_repo.definitions import demand_forecasting_service
from feature_repo.features import LABEL, TIMESTAMP
from feature_repo.materialize import materialize
from feature_repo.paths import PROJECT_ROOT
from feature_repo.store import _variables, apply_definitions, open_store
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, sales_windows_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.model_store import ModelStore
from trainer.distributed import World
from trainer.job import run
from trainer.report import Report
from trainer.spec import TrainSpec

sys.path.insert(0, str(PROJECT_ROOT / "tests" / "trainer"))
from trainer_frames import publish_frame


@dataclass(frozen=True)
class Installation:
    """A database server of its own, so that it can be stopped, and a folder with models."""

    data: Path
    settings: PostgresSettings
    keys: list[dict[str, int]]
    week: datetime

    @property
    def models(self) -> ModelStore:
        return ModelStore(self.data / "models")

    @property
    def environment(self) -> dict[str, str]:
        """For the service, and for assets: where the database and the data are."""
        address = {name: value for name, value in _variables(self.settings).items() if name.startswith("POSTGRES_")}
        return {**address, "FORECAST_DATA_DIR": str(self.data)}

    def stop_database(self) -> None:
        embedded_postgres.stop(self.data / "postgres")

    def start_database(self) -> None:
        PostgresSettings.embedded(self.data / "postgres")


@contextmanager
def installed(drop: Path, **bundles: dict[str, Any]) -> Iterator[Installation]:
    """Features of the coming week in the online store, and bundles with fields of their specs; the first one serves."""
    with tempfile.TemporaryDirectory(prefix="serving tests ") as name:
        data = Path(name).resolve()
        data.chmod(0o755)
        settings = PostgresSettings.embedded(data / "postgres")
        try:
            tables = read_drop(drop)
            for table in (sales_features_table(tables), store_features_table(tables), sales_windows_table(tables)):
                publish(table, settings, run_id="")
            keys, week = live_keys(settings)
            installation = Installation(data, settings, keys, week)
            with open_store(settings) as store:
                apply_definitions(store)
                materialize(store, week)
                labelled = f"SELECT store, dept, {TIMESTAMP} FROM sales_features WHERE {LABEL} IS NOT NULL"
                frame = store.get_historical_features(labelled, demand_forecasting_service).to_arrow()
            publish_frame(frame, data / "frame")
            for bundle, spec in bundles.items():
                train(installation, bundle, **spec)
            installation.models.promote(installation.models.bundle(next(iter(bundles))))
            yield installation
        finally:
            embedded_postgres.stop(data / "postgres")


def train(installation: Installation, bundle: str, **spec: Any) -> None:
    """Publish a bundle that was trained for a moment."""
    folder = installation.models.bundle(bundle)
    short = {"members": 2, "num_epochs": 1, **spec}
    world = World(rank=0, size=1, device=torch.device("cpu"))
    run(TrainSpec(frame_path=str(installation.data / "frame"), model_output_dir=str(folder), **short), world, Report())


@dataclass
class Service:
    """A running ``python -m serving``."""

    process: "subprocess.Popen[bytes]"
    client: httpx.Client

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))

    def version(self) -> str:
        """The hash of the model that serves."""
        return str(self.client.get("/v2/models/demand-forecast").json()["versions"][0])

    def until(self, condition: Any, *, seconds: float = 30) -> None:
        """Wait for a condition on the service."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the service did not come to it"
            time.sleep(0.05)


@contextmanager
def serving(installation: Installation, **settings: Any) -> Iterator[Service]:
    """The service in a process of its own, ready; terminated at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {f"SERVING_{name.upper()}": str(value) for name, value in {"watch_seconds": 0.1, **settings}.items()}
    with (
        tempfile.TemporaryFile() as log,  # a pipe that nobody reads would stop who writes to it
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        process = subprocess.Popen(
            [sys.executable, "-m", "serving"],
            cwd=PROJECT_ROOT,
            env={**os.environ, **installation.environment, **variables, "SERVING_PORT": str(port)},
            stderr=log,
            start_new_session=True,
        )
        try:
            service = Service(process, client)
            service.until(lambda: process.poll() is not None or _is_ready(client), seconds=120)
            log.seek(0)
            assert process.poll() is None, log.read().decode()
            log.seek(0, os.SEEK_END)
            yield service
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/v2/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def forecasts_of(installation: Installation) -> dict[tuple[int, int], tuple[Any, ...]]:
    """What ``weekly_forecasts`` holds for the coming week, by series."""
    with psycopg.connect(installation.settings.url) as connection:
        rows = connection.execute(
            "SELECT store, dept, p10, forecast, p90, model_version, week::text FROM weekly_forecasts"
        ).fetchall()
    return {(store, dept): tuple(rest) for store, dept, *rest in rows}


def ask(service: Service, body: Any, **query: Any) -> httpx.Response:
    """What ``/predict`` answers."""
    return service.client.post("/predict", json=body, params=query)


@contextmanager
def load(service: Service, keys: list[dict[str, int]], *, clients: int = 4) -> Iterator[list[httpx.Response]]:
    """Requests one after the other from several clients, until the block ends; the answers so far."""
    answers: list[httpx.Response] = []
    stop = threading.Event()

    def client(number: int) -> None:
        with httpx.Client(base_url=service.client.base_url, timeout=60) as client:
            turn = number
            while not stop.is_set():
                answers.append(client.post("/predict", json=keys[turn % len(keys)]))
                turn += 1

    with ThreadPoolExecutor(clients) as pool:
        done = [pool.submit(client, number) for number in range(clients)]
        try:
            yield answers
        finally:
            stop.set()
    for each in done:
        each.result()  # a connection that was lost
