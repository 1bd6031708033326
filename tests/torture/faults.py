"""What goes wrong. Each fault is a generator: it prepares, yields what the run is started with, does its damage while
the run is there, yields again until the run has ended, and puts things right."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import psycopg

from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings

from .child import PROOF
from .place import CANARY, Place, until
from .proxy import Proxy

STALL_SECONDS = 5.0
JOB_SECONDS = 40.0


@dataclass
class Start:
    """How the disturbed run is started, where not as usual."""

    environment: dict[str, str] = field(default_factory=dict)
    failing_fsync: int | None = None


@dataclass
class Scene:
    """Where and when something is to go wrong.

    Attributes:
        moment: seconds after the start.
        again: starts the same run once more.
        shim: a library that lets fsync fail; None where there is no compiler.
        done: what was done, in words; empty if it did not come to it.
    """

    place: Place
    settings: PostgresSettings
    rng: random.Random
    moment: float
    again: Callable[[], ForkServerProcess]
    shim: Path | None
    done: str = ""

    def comes(self, run: ForkServerProcess) -> bool:
        """Wait for the moment; False if the run has ended before it."""
        return not until(lambda: not run.is_alive(), self.moment)


Fault = Generator[Start, ForkServerProcess, None]
STAGES = ("ingest", "retrain", "forecast")


def _signal_to_run(signal_number: signal.Signals) -> Callable[[Scene], Fault]:
    def fault(scene: Scene) -> Fault:
        run = yield Start()
        if scene.comes(run) and run.pid is not None:
            os.kill(run.pid, signal_number)
            scene.done = f"{signal_number.name} after {scene.moment:.1f} s"
        yield Start()

    return fault


def _job_processes(place: Place, role: str) -> list[psutil.Process]:
    def is_role(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if role == "supervisor":
                return "local_supervisor.py" in command
            return "-m trainer" in command and (("RANK" in process.environ()) == (role == "rank"))
        return False

    return [process for process in place.processes() if is_role(process)]


def _signal_to_job(role: str, signal_number: signal.Signals) -> Callable[[Scene], Fault]:
    def fault(scene: Scene) -> Fault:
        run = yield Start()
        there = until(lambda: _job_processes(scene.place, role) or not run.is_alive(), JOB_SECONDS)
        time.sleep(scene.rng.uniform(0, 6.0))
        for process in _job_processes(scene.place, role) if there else []:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal_number)
                scene.done = f"{signal_number.name} to {role} {process.pid}"
        yield Start()

    return fault


def _kill_postgres(*, restarted: bool) -> Callable[[Scene], Fault]:
    def fault(scene: Scene) -> Fault:
        run = yield Start()
        alive = scene.comes(run)
        with suppress(FileNotFoundError, ProcessLookupError):
            os.kill(int((scene.place.postgres / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            scene.done = f"after {scene.moment:.1f} s" if alive else ""
        if restarted:
            embedded_postgres.ensure_running(scene.place.postgres)
        yield Start()
        embedded_postgres.ensure_running(scene.place.postgres)

    return fault


def _stop_postgres(scene: Scene) -> Fault:
    run = yield Start()
    scene.done = f"after {scene.moment:.1f} s" if scene.comes(run) else ""
    embedded_postgres.stop(scene.place.postgres)
    time.sleep(scene.rng.uniform(0, 1))
    embedded_postgres.ensure_running(scene.place.postgres)
    yield Start()


def _terminate_sessions(scene: Scene) -> Fault:
    run = yield Start()
    alive = scene.comes(run)
    with suppress(psycopg.Error), psycopg.connect(scene.settings.url) as connection:
        ended = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchone()
        scene.done = f"{ended[0] if ended else 0} sessions after {scene.moment:.1f} s" if alive else ""
    yield Start()


def _through_proxy(damage: Callable[[Proxy], None]) -> Callable[[Scene], Fault]:
    def fault(scene: Scene) -> Fault:
        with Proxy(scene.settings.host) as proxy:
            address = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(proxy.port), "POSTGRES_SSLMODE": "disable"}
            run = yield Start({**address, "POSTGRES_DB": scene.settings.database, "POSTGRES_PASSWORD": CANARY})
            scene.done = f"after {scene.moment:.1f} s" if scene.comes(run) else ""
            damage(proxy)
            yield Start()

    return fault


def _disk_full(*, for_good: bool) -> Callable[[Scene], Fault]:
    def fault(scene: Scene) -> Fault:
        run = yield Start()
        alive = scene.comes(run)
        spare = scene.rng.choice([0, 20_000, 300_000])
        with scene.place.full_disk(spare):
            scene.done = f"{spare:,} bytes left after {scene.moment:.1f} s" if alive else ""
            if for_good:
                yield Start()
            else:
                time.sleep(1.5)
        if not for_good:
            yield Start()

    return fault


def _read_only(scene: Scene) -> Fault:
    name = scene.rng.choice(["raw", "frames", "models", "forecasts", "trainjobs", "pictures"])
    with ExitStack() as stack:
        at_once = scene.rng.random() < 0.5
        if at_once:
            stack.enter_context(scene.place.read_only(scene.place.data / name))
        run = yield Start()
        if not at_once and scene.comes(run):
            stack.enter_context(scene.place.read_only(scene.place.data / name))
            scene.done = f"{name}, after {scene.moment:.1f} s"
        elif at_once:
            scene.done = f"{name}, from the start"
        yield Start()


def _fsync_fails(scene: Scene) -> Fault:
    number, proof = scene.rng.randrange(1, 8), scene.place.root / "fsync-failed"
    proof.unlink(missing_ok=True)
    yield Start({PROOF: str(proof)}, failing_fsync=number)
    yield Start()
    scene.done = f"call {number}" if proof.exists() else ""


def _fsync_fails_in_training(scene: Scene) -> Fault:
    number, proof = scene.rng.randrange(1, 12), scene.place.root / "fsync-failed"
    proof.unlink(missing_ok=True)
    shim = {"LD_PRELOAD": str(scene.shim), "FAILING_FSYNC": str(number)} if scene.shim else {}
    yield Start({PROOF: str(proof), **shim})
    yield Start()
    scene.done = f"call {number} of each process" if proof.exists() else ""


def _second_run(scene: Scene) -> Fault:
    yield Start()
    time.sleep(scene.rng.choice([0.0, 0.0, scene.moment]))
    other = scene.again()
    scene.done = "side by side"
    other.join(JOB_SECONDS)
    if other.is_alive():
        other.kill()
        other.join()
        scene.done = "side by side; the second one hung"
    yield Start()


def _changing_file(scene: Scene) -> Fault:
    """Written in place, in pieces, as by a sender who does not rename; in the end it is what it was."""
    yield Start()
    file = scene.place.landing / scene.rng.choice(["train.csv", "features.csv", "stores.csv"])
    content = file.read_bytes()
    time.sleep(scene.rng.uniform(0, min(scene.moment, 0.6)))
    pieces = scene.rng.randrange(2, 6)
    with file.open("wb") as sender:
        for number in range(pieces):
            start, end = (len(content) * part // pieces for part in (number, number + 1))
            sender.write(content[start:end])
            sender.flush()
            time.sleep(scene.rng.uniform(0, 0.15))
    scene.done = f"{file.name} in {pieces} pieces"
    yield Start()


def _damaged(*patterns: str) -> Callable[[Scene], Fault]:
    """A file of what was published is cut, emptied, or has a bit flipped; nobody puts it right."""

    def fault(scene: Scene) -> Fault:
        files = sorted(path for pattern in patterns for path in scene.place.data.glob(pattern) if path.is_file())
        file = scene.rng.choice(files)
        content = bytearray(file.read_bytes())
        how = scene.rng.choice(["cut", "emptied", "a bit flipped"])
        if how == "a bit flipped":
            content[scene.rng.randrange(len(content))] ^= 1 << scene.rng.randrange(8)
        file.write_bytes(content if how == "a bit flipped" else content[: len(content) // 2 if how == "cut" else 0])
        scene.done = f"{file.relative_to(scene.place.data)} {how}"
        yield Start()
        yield Start()

    return fault


def _planted_checkpoint(scene: Scene) -> Fault:
    """A training finds a checkpoint that is not what its name says."""
    name = (scene.place.root / "kept" / "bundle").read_text()
    folder = scene.place.data / "models" / "bundles" / f"{name}.checkpoints"
    folder.mkdir(parents=True)
    (folder / f"state-000007.{'0' * 64}.pt").write_bytes(scene.rng.randbytes(5_000))
    scene.done = "random bytes under a checkpoint's name"
    yield Start()
    yield Start()


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        stages: the jobs that it is tried in.
        watched: whether a reader looks on.
        needs_disk: whether the disk must be one of its own.
    """

    fault: Callable[[Scene], Fault]
    stages: tuple[str, ...] = STAGES
    watched: bool = True
    needs_disk: bool = False


KINDS: dict[str, Kind] = {
    "run: kill -9": Kind(_signal_to_run(signal.SIGKILL)),
    "run: SIGTERM": Kind(_signal_to_run(signal.SIGTERM)),
    "run: SIGINT": Kind(_signal_to_run(signal.SIGINT)),
    "rank: kill -9": Kind(_signal_to_job("rank", signal.SIGKILL), ("retrain",)),
    "rank: SIGTERM": Kind(_signal_to_job("rank", signal.SIGTERM), ("retrain",)),
    "torchrun: kill -9": Kind(_signal_to_job("torchrun", signal.SIGKILL), ("retrain",)),
    "torchrun: SIGTERM": Kind(_signal_to_job("torchrun", signal.SIGTERM), ("retrain",)),
    "job's supervisor: kill -9": Kind(_signal_to_job("supervisor", signal.SIGKILL), ("retrain",)),
    "PostgreSQL: kill -9": Kind(_kill_postgres(restarted=False)),
    "PostgreSQL: kill -9, started at once": Kind(_kill_postgres(restarted=True)),
    "PostgreSQL: stopped and started": Kind(_stop_postgres),
    "PostgreSQL: every session ended": Kind(_terminate_sessions),
    "connection: reset": Kind(_through_proxy(Proxy.reset), ("ingest", "forecast")),
    "connection: 5 s stall": Kind(_through_proxy(lambda proxy: proxy.stall(STALL_SECONDS)), ("ingest", "forecast")),
    "disk: full": Kind(_disk_full(for_good=True), needs_disk=True),
    "disk: full for a moment": Kind(_disk_full(for_good=False), needs_disk=True),
    "disk: a folder read-only": Kind(_read_only, needs_disk=True),
    "disk: fsync fails in the run": Kind(_fsync_fails),
    "disk: fsync fails in the training": Kind(_fsync_fails_in_training, ("retrain",)),
    "second identical run": Kind(_second_run),
    "file changes while it is read": Kind(_changing_file, ("ingest",)),
    "damaged: model of the champion": Kind(_damaged("models/bundles/*/best_model.pt"), ("retrain",), watched=False),
    "damaged: chunk of the frame": Kind(_damaged("frames/*/chunk-*"), ("ingest",), watched=False),
    "damaged: manifest of the frame": Kind(_damaged("frames/*/manifest.json"), ("ingest",), watched=False),
    "damaged: accepted file": Kind(_damaged("raw/*/*.parquet"), ("ingest",), watched=False),
    "damaged: reference to the frame or drop": Kind(_damaged("*/CURRENT"), ("ingest",), watched=False),
    "damaged: reference to a model": Kind(_damaged("models/CHAMPION", "models/CANDIDATE"), ("retrain",), watched=False),
    "damaged: checkpoint": Kind(_planted_checkpoint, ("retrain",)),
}

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
static int calls;
int fsync(int descriptor) {
  const char *number = getenv("FAILING_FSYNC");
  if (getenv("RANK") && number && ++calls == atoi(number)) {
    creat(getenv("FSYNC_FAILED"), 0600);
    errno = EIO;
    return -1;
  }
  return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(descriptor);
}
"""


def compiled_shim(folder: Path) -> Path | None:
    """The library that lets fsync fail, or None where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "failing_fsync.so"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
    return library if subprocess.run(command, input=SHIM.encode(), check=False).returncode == 0 else None


def kinds_here(place: Place) -> Iterator[str]:
    """The kinds that can be tried on this machine."""
    for name, kind in KINDS.items():
        if place.mounted or not kind.needs_disk:
            yield name
