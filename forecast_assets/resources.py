"""What differs between a laptop, a server and a cluster: the assets only see these resources."""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import psycopg
from pydantic import Field

from feature_repo.database import PostgresSettings, connect_settings
from feature_repo.paths import data_dir
from forecast_assets.frame_store import FrameStore
from forecast_assets.model_store import ModelStore
from forecast_assets.raw_store import RawStore
from forecast_assets.retries import retried_when_connections_break
from forecast_assets.trainjob import (
    ContainerPlatform,
    JobPlatform,
    KubernetesPlatform,
    LocalPlatform,
    PipesTrainJobClient,
    Retention,
    echo_to_stdout,
)

if TYPE_CHECKING:
    import pyarrow as pa
    from feast import FeatureStore


class Postgres(dg.ConfigurableResource["Postgres"]):
    """The PostgreSQL server of ``POSTGRES_*``; without these variables an embedded one, started on first use."""

    def settings(self) -> PostgresSettings:
        """Address and credentials."""
        return connect_settings()

    @contextmanager
    def connect(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A connection, for a step's ``with`` block: committed at its end, rolled back on an exception.

        If the connection breaks, the step is run again.
        """
        with retried_when_connections_break(), psycopg.connect(self.settings().url) as connection:
            yield connection


class FeastStore(dg.ConfigurableResource["FeastStore"]):
    """The Feast feature store of ``feature_repo/`` on the same server."""

    postgres: dg.ResourceDependency[Postgres]
    ray_address: str | None = Field(
        default=None,
        description="Ray cluster for large retrievals: local, auto or ray://host:10001. Without it, "
        "FEAST_RAY_ADDRESS; without that, no Ray: one process retrieves.",
    )

    @contextmanager
    def open(self) -> Iterator["FeatureStore"]:
        """The store, for a step's ``with`` block, at the end of which its connections are closed.

        If a connection breaks, the step is run again.
        """
        from feature_repo.store import open_store

        with retried_when_connections_break(), open_store(self.postgres.settings()) as store:
            yield store

    @contextmanager
    def retrieve(
        self, store: "FeatureStore", entity_rows: str, feature_service: str, scratch: Path
    ) -> Iterator["Retrieval"]:
        """The features of the entity rows, in order, as batches: from one process, or fanned out over Ray.

        Args:
            store: the open store.
            entity_rows: SQL that names a total order.
            feature_service: the features to retrieve.
            scratch: a folder that Ray's workers share.
        """
        from feature_repo.ray_cluster import configured_address

        if address := self.ray_address or configured_address():
            from feature_repo.ray_retrieval import RayRetrieval

            settings = self.postgres.settings()
            batches = RayRetrieval(address=address).batches(settings, entity_rows, feature_service, scratch)
            sql = entity_rows
        else:
            job: Any = store.get_historical_features(entity_rows, store.get_feature_service(feature_service))
            batches, sql = job.to_arrow_batches(), job.to_sql()
        with closing(batches):
            yield Retrieval(batches, sql)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Features in order, and the query that gives them; with Ray, that of the entity rows, which workers divide."""

    batches: Iterator["pa.RecordBatch"]
    sql: str


class LandingZone(dg.ConfigurableResource["LandingZone"]):
    """The folder in which drops arrive."""

    path: str | None = Field(
        default=None,
        description="Folder with train.csv, features.csv and stores.csv (each may be zipped). Without it, "
        "LANDING_DIR; without that, before the first drop, a generated sample data set under the data folder.",
    )

    def location(self) -> Path:
        """The folder, which need not exist."""
        configured = self.path or os.environ.get("LANDING_DIR")
        return Path(configured).expanduser().absolute() if configured else data_dir() / "landing"

    def folder(self, log: dg.DagsterLogManager, *, before: Path | None) -> Path:
        """The folder; without a setting, that of the sample data, which is written on first use.

        Args:
            before: the folder that the drop in use came from; None if there is none yet.

        Raises:
            dg.Failure: nothing is set, and drops came from elsewhere: the setting was lost.
        """
        folder = self.location()
        if self.path or os.environ.get("LANDING_DIR"):
            return folder
        if before is not None and before.resolve() != folder.resolve():
            raise dg.Failure(
                f"LANDING_DIR is not set, so that drops would be read from {folder}; but the drop in use came from "
                f"{before}. Set LANDING_DIR to the folder in which drops arrive, be it the first of these. Nothing was "
                "loaded, the drop in use stays.",
                allow_retries=False,
            )
        if not folder.exists():
            from forecast_assets.sample_data import write_sample_data

            log.info(f"LANDING_DIR is not set: writing the sample data set to {folder}")
            write_sample_data(folder)
        return folder


class Artifacts(dg.ConfigurableResource["Artifacts"]):
    """The folder for frames, models, forecasts and job records; a shared volume on a cluster."""

    path: str | None = Field(default=None, description="Without it, FORECAST_DATA_DIR, else var/ in the checkout.")

    @cached_property
    def root(self) -> Path:
        return Path(self.path).expanduser() if self.path else data_dir()

    @property
    def raw(self) -> RawStore:
        return RawStore(self.root / "raw")

    @property
    def frames(self) -> FrameStore:
        return FrameStore(self.root / "frames")

    @property
    def models(self) -> ModelStore:
        return ModelStore(self.root / "models")

    @property
    def jobs(self) -> Path:
        return self.root / "trainjobs"

    @property
    def forecasts(self) -> Path:
        return self.root / "forecasts"

    def picture(self, name: str) -> Path:
        """Where the picture ``name`` is kept for those who look without the UI."""
        return self.root / "pictures" / f"{name}.png"


class TrainJobs(dg.ConfigurableResource["TrainJobs"]):
    """Where trainings run. What is not set here is taken from the environment."""

    artifacts: dg.ResourceDependency[Artifacts]
    backend: str | None = Field(
        default=None,
        description="local: torchrun on this machine. container: docker or podman. kubernetes: a cluster with Kubeflow "
        "Trainer. Without it, TRAIN_BACKEND, else local. The other TRAIN_* variables are in .env.example.",
    )
    namespace: str | None = Field(
        default=None, description="Of the cluster; without it TRAIN_NAMESPACE, else forecast."
    )
    runtime: str | None = Field(default=None, description="Training runtime of the cluster; without it TRAIN_RUNTIME.")
    queue: str | None = Field(default=None, description="Kueue's local queue; without it TRAIN_QUEUE, else none.")
    priority: str | None = Field(default=None, description="Kueue's priority class; without it TRAIN_PRIORITY.")
    keep_days: float | None = Field(default=None, description="Of ended jobs; without it TRAIN_KEEP_DAYS, else 7.")

    def client(self) -> PipesTrainJobClient:
        """The client that launches and follows them; ValueError for a setting that means nothing."""
        keep = timedelta(days=float(self.keep_days or os.environ.get("TRAIN_KEEP_DAYS") or 7))
        return PipesTrainJobClient(
            self.platform(), self.artifacts.jobs / "records", retention=Retention(keep=keep), echo=_echo
        )

    def platform(self) -> JobPlatform:
        """The place where they run, also for notebooks; ValueError for a setting that means nothing."""
        backend = self.backend or os.environ.get("TRAIN_BACKEND") or "local"
        folder = self.artifacts.jobs / backend
        if backend == "local":
            return LocalPlatform(folder, num_proc_per_node=train_processes())
        if backend == "container":
            socket = os.environ.get("TRAIN_CONTAINER_SOCKET")
            return ContainerPlatform(folder=folder, shared=[self.artifacts.root.resolve()], socket=socket)
        if backend == "kubernetes":
            return KubernetesPlatform(
                namespace=os.environ.get("TRAIN_NAMESPACE", "forecast"),
                runtime=os.environ.get("TRAIN_RUNTIME", "forecast-torch-cpu"),
                context=os.environ.get("TRAIN_KUBE_CONTEXT"),
                queue=os.environ.get("TRAIN_QUEUE"),
                priority=os.environ.get("TRAIN_PRIORITY"),
            )
        raise ValueError(f"TRAIN_BACKEND is {backend!r}; allowed: local, container, kubernetes")


def train_processes() -> int:
    """Processes of a training on this machine at most: TRAIN_PROCESSES, else 2."""
    processes = os.environ.get("TRAIN_PROCESSES") or "2"
    if not processes.isdecimal() or int(processes) == 0:
        raise ValueError(f"TRAIN_PROCESSES is {processes!r}; allowed: a number of processes, 1 or more")
    return int(processes)


def _echo(line: str) -> None:
    if os.environ.get("TRAIN_ECHO") != "0":
        echo_to_stdout(line)
