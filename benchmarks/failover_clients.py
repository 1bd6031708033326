"""The clients whose behaviour in a failover of PostgreSQL is looked at: they write, materialize, retrieve and serve."""

import contextlib
import io
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import psycopg
import torch
import uvicorn
import yaml

from benchmarks.full_size import live_keys
from feature_repo.database import PostgresSettings
from feature_repo.definitions import demand_forecasting_service
from feature_repo.features import LABEL, TIMESTAMP
from feature_repo.materialize import materialize
from feature_repo.paths import PROJECT_ROOT
from feature_repo.store import _variables, apply_definitions, open_store
from forecast_assets.frame_store import FrameStore
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, sales_windows_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.model_store import ModelStore
from forecast_assets.resources import Artifacts, FeastStore, Postgres
from forecast_assets.sample_data import write_sample_data
from serving.app import create_app
from serving.settings import Settings
from trainer.distributed import World
from trainer.job import run
from trainer.report import Report
from trainer.spec import TrainSpec

Keys = Sequence[dict[str, int]]
_PAUSE = 0.05


@dataclass(slots=True)
class Answers:
    """What a client was told that asks all the time.

    Attributes:
        told: when, by the monotonic clock, and what; None for a refusal.
        refusals: the different ways in which it was refused.
    """

    told: list[tuple[float, Any]] = field(default_factory=list)
    refusals: set[str] = field(default_factory=set)

    @property
    def answered(self) -> list[Any]:
        """The answers, without the refusals."""
        return [answer for _, answer in self.told if answer is not None]

    def refuse(self, reason: str) -> None:
        """Note a refusal."""
        self.refusals.add(reason)
        self.told.append((time.monotonic(), None))

    def answer(self, answer: Any) -> None:
        """Note an answer."""
        self.told.append((time.monotonic(), answer))

    def back_after(self, moment: float) -> float:
        """Seconds from ``moment`` to the answer after the longest time without one, of those after ``moment``."""
        times = [moment, *(when for when, answer in self.told if answer is not None and when > moment)]
        return max(zip(times[1:], times, strict=False), key=lambda pair: pair[0] - pair[1])[0] - moment


@dataclass(frozen=True, slots=True)
class StepResult:
    """One run of an asset: whether it succeeded, how often its step was retried, and when it was done."""

    run_id: str
    success: bool
    retries: int
    done: float


def environment(settings: PostgresSettings, folder: Path) -> dict[str, str]:
    """The variables of the server profile (`deploy/server/README.md`), Dagster's storage on the same server."""
    address = {name: value for name, value in _variables(settings).items() if name.startswith("POSTGRES_")}
    return {
        **address,
        "FORECAST_DATA_DIR": str(folder / "data"),
        "DAGSTER_HOME": str(folder / "home"),
        "DAGSTER_POSTGRES_HOST": settings.host,
        "DAGSTER_POSTGRES_PORT": str(settings.port),
        "DAGSTER_POSTGRES_DB": "dagster",
        "DAGSTER_POSTGRES_USER": settings.user,
        "DAGSTER_POSTGRES_PASSWORD": settings.password,
    }


def prepare(settings: PostgresSettings, folder: Path, *, size: float) -> Keys:
    """Fill the database, train a model for a moment, and make a Dagster home; returns the live series."""
    drop = folder / "landing"
    write_sample_data(drop, size=size)
    content = read_drop(drop)
    for table in (sales_features_table(content), store_features_table(content), sales_windows_table(content)):
        publish(table, settings, run_id="")
    keys, week = live_keys(settings)
    with open_store(settings) as store, contextlib.redirect_stdout(io.StringIO()):
        apply_definitions(store)
        materialize(store, week)
        rows = f"SELECT store, dept, {TIMESTAMP} FROM sales_features WHERE {LABEL} IS NOT NULL AND store <= 3"  # noqa: S608
        frame = store.get_historical_features(rows, demand_forecasting_service).to_arrow()
    frames, models = FrameStore(folder / "data" / "frames"), ModelStore(folder / "data" / "models")
    frames.publish(frame, feature_service="", feature_service_hash="")
    current = frames.current()
    assert current is not None  # noqa: S101 - just published
    bundle = models.bundle("model")
    spec = TrainSpec(frame_path=str(current[0]), model_output_dir=str(bundle), num_epochs=1, members=2)
    run(spec, World(rank=0, size=1, device=torch.device("cpu")), Report())
    models.promote(bundle)
    _dagster_home(folder / "home")
    with psycopg.connect(settings.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE dagster")
        connection.execute("CREATE TABLE committed (number bigint PRIMARY KEY)")
    return keys


def _dagster_home(folder: Path) -> None:
    """A Dagster home of the server profile, but that runs share a process here and cannot each have its output."""
    config = yaml.safe_load((PROJECT_ROOT / "deploy" / "server" / "dagster.yaml").read_text())
    module = "dagster._core.storage.noop_compute_log_manager"
    config["compute_logs"] = {"module": module, "class": "NoOpComputeLogManager"}
    folder.mkdir()
    (folder / "dagster.yaml").write_text(yaml.safe_dump(config))


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """These environment variables, in this process."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def materialized(asset: dg.AssetsDefinition, config: Any = None) -> StepResult:
    """Materialize an asset in a run of the instance that DAGSTER_HOME names."""
    postgres = Postgres()
    resources = {"postgres": postgres, "feast": FeastStore(postgres=postgres), "artifacts": Artifacts()}
    run_config = {"ops": {asset.op.name: {"config": config}}} if config else None
    with dg.DagsterInstance.get() as instance:
        result = dg.materialize(
            [asset], resources=resources, instance=instance, run_config=run_config, raise_on_error=False
        )
        retries = instance.all_logs(result.run_id, of_type=dg.DagsterEventType.STEP_UP_FOR_RETRY)
        return StepResult(result.run_id, result.success, len(retries), time.monotonic())


def commit(settings: PostgresSettings, stop: threading.Event) -> Answers:
    """Commit numbers, one after the other, over connections that are made anew when they break."""
    answers, number = Answers(), 0
    while not stop.is_set():
        try:
            with psycopg.connect(settings.url, autocommit=True) as connection:
                while not stop.is_set():
                    number += 1
                    connection.execute("INSERT INTO committed VALUES (%s)", [number])
                    answers.answer(number)
                    time.sleep(_PAUSE)
        except psycopg.OperationalError as error:
            answers.refuse(str(error))
            time.sleep(_PAUSE)
    return answers


def ask(client: httpx.Client, keys: Keys, stop: threading.Event) -> Answers:
    """Ask for forecasts of ``keys``, one request after the other."""
    answers = Answers()
    while not stop.is_set():
        response = client.post("/predict", json=keys)
        if response.status_code == httpx.codes.OK:
            answers.answer(response.json())
        else:
            answers.refuse(f"{response.status_code} {response.json()['detail']}")
        time.sleep(_PAUSE)
    return answers


@contextmanager
def service() -> Iterator[httpx.Client]:
    """The model service with its defaults, ready, in a thread of this process."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # what comes before the service is ready waits
        server = uvicorn.Server(uvicorn.Config(create_app(Settings()), log_level="critical"))
        thread = threading.Thread(target=server.run, args=([listening],), name="service")
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60) as client:
                while client.get("/v2/health/ready").status_code != httpx.codes.OK:
                    time.sleep(_PAUSE)
                yield client
        finally:
            server.should_exit = True
            thread.join()


@dataclass(frozen=True, slots=True)
class Hold:
    """Locks that stop clients in the middle of what they do. They go with the primary."""

    settings: PostgresSettings
    connection: "psycopg.Connection[Any]"

    def lock(self, table: str, mode: str) -> None:
        """Lock ``table`` against what ``mode`` conflicts with."""
        self.connection.execute(f"LOCK TABLE {table} IN {mode} MODE".encode())

    def until(self, waiting: int) -> None:
        """Wait until so many clients wait for locks."""
        query, deadline = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", time.monotonic() + 60
        with psycopg.connect(self.settings.url, autocommit=True) as connection:
            while connection.execute(query).fetchone() != (waiting,):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{waiting} clients were to wait for locks")
                time.sleep(_PAUSE)


@contextmanager
def hold(settings: PostgresSettings) -> Iterator[Hold]:
    """Hold clients of the server at ``settings``, until it is killed or the ``with`` block ends."""
    connection = psycopg.connect(settings.url)
    try:
        yield Hold(settings, connection)
    finally:
        connection.close()
