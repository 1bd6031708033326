"""What goes wrong, kind by kind."""

import importlib.util
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .files import (
    changing_file,
    damaged,
    disk_full,
    fsync_fails,
    fsync_fails_in_training,
    planted_checkpoint,
    read_only,
)
from .place import Place
from .processes import (
    clock_jumps,
    kill_postgres,
    second_run,
    signal_to_job,
    signal_to_ray_worker,
    signal_to_run,
    stop_postgres,
    terminate_sessions,
    through_proxy,
)
from .proxy import Proxy
from .scene import Fault, Scene
from .shim import shim_of

STAGES = ("ingest", "retrain", "forecast")
STALL_SECONDS = 5.0


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        stages: the jobs that it is tried in.
        watched: whether a reader looks on.
        needs_disk: whether the disk must be one of its own.
        needs_shim: whether a library is put before the C library.
        needs_ray: whether Ray must be installed.
    """

    fault: Callable[[Scene], Fault]
    stages: tuple[str, ...] = STAGES
    watched: bool = True
    needs_disk: bool = False
    needs_shim: bool = False
    needs_ray: bool = False


KINDS: dict[str, Kind] = {
    "run: kill -9": Kind(signal_to_run(signal.SIGKILL)),
    "run: SIGTERM": Kind(signal_to_run(signal.SIGTERM)),
    "run: SIGINT": Kind(signal_to_run(signal.SIGINT)),
    "rank: kill -9": Kind(signal_to_job("rank", signal.SIGKILL), ("retrain",)),
    "rank: SIGTERM": Kind(signal_to_job("rank", signal.SIGTERM), ("retrain",)),
    "torchrun: kill -9": Kind(signal_to_job("torchrun", signal.SIGKILL), ("retrain",)),
    "torchrun: SIGTERM": Kind(signal_to_job("torchrun", signal.SIGTERM), ("retrain",)),
    "job's supervisor: kill -9": Kind(signal_to_job("supervisor", signal.SIGKILL), ("retrain",)),
    "PostgreSQL: kill -9": Kind(kill_postgres(restarted=False)),
    "PostgreSQL: kill -9, started at once": Kind(kill_postgres(restarted=True)),
    "PostgreSQL: stopped and started": Kind(stop_postgres),
    "PostgreSQL: every session ended": Kind(terminate_sessions),
    "connection: reset": Kind(through_proxy(Proxy.reset), ("ingest", "forecast")),
    "connection: 5 s stall": Kind(through_proxy(lambda proxy: proxy.stall(STALL_SECONDS)), ("ingest", "forecast")),
    "disk: full": Kind(disk_full(for_good=True), needs_disk=True),
    "disk: full for a moment": Kind(disk_full(for_good=False), needs_disk=True),
    "disk: a folder read-only": Kind(read_only, needs_disk=True),
    "disk: fsync fails in the run": Kind(fsync_fails),
    "disk: fsync fails in the training": Kind(fsync_fails_in_training, ("retrain",), needs_shim=True),
    "second identical run": Kind(second_run),
    "file changes while it is read": Kind(changing_file, ("ingest",)),
    "damaged: model of the champion": Kind(
        damaged("models/bundles/*/best_model.pt", "models/bundles/*/bundle.json"), ("retrain",), watched=False
    ),
    "damaged: chunk of the frame": Kind(damaged("frames/*/chunk-*"), ("ingest",), watched=False),
    "damaged: manifest of the frame": Kind(damaged("frames/*/manifest.json"), ("ingest",), watched=False),
    "damaged: accepted file": Kind(damaged("raw/*/*.parquet"), ("ingest",), watched=False),
    "damaged: reference to the frame or drop": Kind(damaged("*/CURRENT"), ("ingest",), watched=False),
    "damaged: reference to a model": Kind(damaged("models/CHAMPION", "models/CANDIDATE"), ("retrain",), watched=False),
    "damaged: checkpoint": Kind(planted_checkpoint, ("retrain",)),
    "clock jumps": Kind(clock_jumps, needs_shim=True),
    "Ray's worker: kill -9": Kind(signal_to_ray_worker(signal.SIGKILL), ("ingest",), needs_ray=True),
    "Ray's worker: SIGTERM": Kind(signal_to_ray_worker(signal.SIGTERM), ("ingest",), needs_ray=True),
}


def kinds_here(place: Place) -> Iterator[str]:
    """The kinds that can be tried on this machine."""
    shim, ray = shim_of(place.root).exists(), importlib.util.find_spec("ray") is not None
    for name, kind in KINDS.items():
        if (place.mounted or not kind.needs_disk) and (shim or not kind.needs_shim) and (ray or not kind.needs_ray):
            yield name
