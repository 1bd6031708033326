"""Processes that are killed, servers that go away, connections that break, and a clock that jumps."""

import os
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess

import psutil
import psycopg

from feature_repo import embedded_postgres

from .place import CANARY, Place, until
from .proxy import Proxy
from .scene import Fault, Scene, Start
from .shim import shim_of
from .state import READER

JOB_SECONDS = 40.0
TRAINING_SECONDS = 3.0  # that a job is there for at least, on a quiet machine
RAY_TASK_SECONDS = 1.0
CLOCK_JUMPS = (-400 * 86_400, -86_400, -3_600, -30, 30, 3_600, 86_400, 400 * 86_400)


def signal_to_run(signal_number: signal.Signals) -> Callable[[Scene], Fault]:
    def fault(scene: Scene) -> Fault:
        run = yield Start()
        if scene.comes(run) and run.pid is not None:
            os.kill(run.pid, signal_number)
            scene.done = f"{signal_number.name} after {scene.moment:.1f} s"
            if signal_number != signal.SIGKILL:
                scene.told_to_end = time.monotonic()
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


def signal_to_job(role: str, signal_number: signal.Signals) -> Callable[[Scene], Fault]:
    def fault(scene: Scene) -> Fault:
        run = yield Start()
        there = until(lambda: _job_processes(scene.place, role) or not run.is_alive(), JOB_SECONDS)
        time.sleep(scene.rng.uniform(0, TRAINING_SECONDS))
        for process in _job_processes(scene.place, role) if there else []:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal_number)
                scene.done = f"{signal_number.name} to {role} {process.pid}"
        yield Start()

    return fault


def _ray_tasks(run: ForkServerProcess) -> list[psutil.Process]:
    found = []
    with suppress(psutil.Error):
        for process in psutil.Process(run.pid).children(recursive=True):
            with suppress(psutil.Error):
                if process.cmdline()[:1] == ["ray::_write_range"]:
                    found.append(process)
    return found


def signal_to_ray_worker(signal_number: signal.Signals) -> Callable[[Scene], Fault]:
    """To one of the processes that retrieve a part of the frame each."""

    def fault(scene: Scene) -> Fault:
        run = yield Start({"FEAST_RAY_ADDRESS": "local"})
        if until(lambda: _ray_tasks(run) or not run.is_alive(), JOB_SECONDS):
            time.sleep(scene.rng.uniform(0, RAY_TASK_SECONDS))
            for worker in _ray_tasks(run)[:1]:
                with suppress(psutil.NoSuchProcess):
                    worker.send_signal(signal_number)
                    scene.done = f"{signal_number.name} to worker {worker.pid}"
        yield Start()

    return fault


def kill_postgres(*, restarted: bool) -> Callable[[Scene], Fault]:
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


def stop_postgres(scene: Scene) -> Fault:
    run = yield Start()
    scene.done = f"after {scene.moment:.1f} s" if scene.comes(run) else ""
    embedded_postgres.stop(scene.place.postgres)
    time.sleep(scene.rng.uniform(0, 1))
    embedded_postgres.ensure_running(scene.place.postgres)
    yield Start()


def terminate_sessions(scene: Scene) -> Fault:
    def strike() -> bool:
        with suppress(psycopg.Error), psycopg.connect(scene.settings.url) as connection:
            ended = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND application_name <> %s",
                [READER],
            ).fetchone()
            scene.done = f"{ended[0]} sessions after {scene.moment:.1f} s" if ended and ended[0] else ""
        return bool(scene.done)

    run = yield Start()
    scene.strikes(run, strike)
    yield Start()


def through_proxy(damage: Callable[[Proxy], int]) -> Callable[[Scene], Fault]:
    def fault(scene: Scene) -> Fault:
        with Proxy(scene.settings.host) as proxy:
            address = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(proxy.port), "POSTGRES_SSLMODE": "disable"}
            run = yield Start({**address, "POSTGRES_DB": scene.settings.database, "POSTGRES_PASSWORD": CANARY})
            scene.done = f"after {scene.moment:.1f} s" if scene.strikes(run, lambda: damage(proxy)) else ""
            yield Start()

    return fault


def clock_jumps(scene: Scene) -> Fault:
    """The clock of the run and of all that it starts jumps; that of PostgreSQL does not."""
    jump, file = scene.rng.choice(CLOCK_JUMPS), scene.place.root / "clock"
    file.write_bytes(struct.pack("q", 0))
    run = yield Start({"LD_PRELOAD": str(shim_of(scene.place.root)), "CLOCK_JUMP": str(file)})
    if scene.comes(run):
        with file.open("r+b") as clock:
            clock.write(struct.pack("q", jump))
        scene.done = f"by {jump:,} s after {scene.moment:.1f} s"
    yield Start()


def second_run(scene: Scene) -> Fault:
    run = yield Start()
    time.sleep(scene.rng.choice([0.0, 0.0, scene.moment]))
    alive = run.is_alive()
    other = scene.again()
    scene.done = "side by side" if alive else ""
    other.join(JOB_SECONDS)
    if other.is_alive():
        other.kill()
        other.join()
        scene.wrong.append("the second run hung")
    elif other.exitcode != 0:
        scene.wrong.append("the second run failed")
    yield Start()
