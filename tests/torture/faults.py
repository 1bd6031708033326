"""What goes wrong, kind by kind."""

import importlib.util
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from .files import (
    DAMAGE,
    changing_file,
    damaged,
    damaged_checkpoint,
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
        remedies: where the run has to notice it and to fail: by stage, the job to run before it, as the message says.
        needs_disk: whether the disk must be one of its own.
        needs_shim: whether a library is put before the C library.
        needs_ray: whether Ray must be installed.
    """

    fault: Callable[[Scene], Fault]
    stages: tuple[str, ...] = STAGES
    watched: bool = True
    remedies: Mapping[str, str] = field(default_factory=dict)
    needs_disk: bool = False
    needs_shim: bool = False
    needs_ray: bool = False


def _damaged(
    *patterns: str,
    stages: tuple[str, ...],
    remedies: Mapping[str, str] | None = None,
    ways: tuple[str, ...] = DAMAGE,
) -> Kind:
    return Kind(damaged(*patterns, ways=ways), stages, watched=False, remedies=remedies or {})


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
    "damaged: model of the champion": _damaged(
        "models/bundles/{models}/best_model.pt",
        "models/bundles/{models}/bundle.json",
        stages=("retrain", "forecast"),
        remedies={"forecast": "retrain"},
    ),
    "damaged: chunk of the frame": _damaged(
        "frames/{frames}/chunk-*", stages=("ingest", "retrain"), remedies={"retrain": "ingest"}
    ),
    "damaged: manifest of the frame": _damaged(
        "frames/{frames}/manifest.json", stages=("ingest", "retrain"), remedies={"retrain": "ingest"}
    ),
    "damaged: accepted file": _damaged(
        "raw/*/*.parquet", stages=("ingest", "forecast"), remedies={"forecast": "ingest"}
    ),
    "damaged: reference to the frame": _damaged(
        "frames/CURRENT", stages=("ingest", "retrain"), remedies={"retrain": "ingest"}
    ),
    "damaged: reference to the drop": _damaged(
        # A bit of where a file came from says nothing of what it holds.
        "raw/CURRENT",
        stages=("ingest", "forecast"),
        remedies={"forecast": "ingest"},
        ways=("cut", "emptied"),
    ),
    "damaged: reference to the champion": _damaged(
        "models/CHAMPION", stages=("retrain", "forecast"), remedies={"forecast": "retrain"}
    ),
    "damaged: reference to the candidate": _damaged("models/CANDIDATE", stages=("retrain",)),
    "damaged: a checkpoint that was planted": Kind(planted_checkpoint, ("retrain",)),
    "damaged: last checkpoint of a killed training": Kind(damaged_checkpoint, ("retrain",)),
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
