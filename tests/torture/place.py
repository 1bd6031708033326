"""The place of a case: a data folder on a small disk of its own, a landing zone, a Dagster home, a server."""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings

CANARY = "c4n4ry-b1rd-of-the-mine"  # a secret that nothing may write down
CASE_VARIABLE = "TORTURE_CASE"
DISK_MEGABYTES = 400
TELEMETRY_OFF = "telemetry:\n  enabled: false\n"


@dataclass
class Place:
    """The place, used by case after case.

    Attributes:
        root: holds ``data`` (a tmpfs where mounting is allowed), ``landing``, ``home``, ``logs`` and ``kept`` states.
        mounted: whether the disk is one of its own, which can be filled.
    """

    root: Path
    mounted: bool = False

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def postgres(self) -> Path:
        return self.data / "postgres"

    @property
    def environment(self) -> dict[str, str]:
        """Of a run, and of all that it starts."""
        foreign = ("POSTGRES_", "DAGSTER_", "TRAIN_", "SERVING_", "LANDING_DIR")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
            "FORECAST_DATA_DIR": str(self.data),
            "LANDING_DIR": str(self.landing),
            "DAGSTER_HOME": str(self.home),
            "TRAIN_ECHO": "0",
            "TRAIN_PROCESSES": "1",
            CASE_VARIABLE: str(self.root),
            "ALERT_WEBHOOK_URL": f"http://127.0.0.1:9/{CANARY}",
            "SERVING_API_KEY": CANARY,
        }

    def make(self) -> None:
        """Make the folders, and a disk if that is allowed."""
        for folder in (self.data, self.landing, self.home, self.root / "logs", self.root / "kept"):
            folder.mkdir(parents=True, exist_ok=True)
        options = ["-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m,mode=755", "torture", str(self.data)]
        self.mounted = _mount(*options)
        (self.home / "dagster.yaml").write_text(TELEMETRY_OFF)

    def remove(self) -> None:
        """Unmount the disk; the folders go with ``root``."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.data)], check=False, capture_output=True)

    def keep(self, name: str) -> None:
        """Keep the present state, to start cases from."""
        for folder in (self.data, self.landing, self.home):
            _copy(folder, self.root / "kept" / name / folder.name)

    def restore(self, name: str) -> None:
        """Go back to a state that was kept. Nothing may be running."""
        for folder in (self.data, self.landing, self.home):
            for entry in folder.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
            _copy(self.root / "kept" / name / folder.name, folder)

    @contextmanager
    def server(self) -> Iterator[PostgresSettings]:
        """The PostgreSQL server, held up by this process; at the end it is stopped, with its watcher."""
        os.environ[CASE_VARIABLE] = str(self.root)
        root = self.postgres.resolve()
        settings = PostgresSettings.embedded(root)
        try:
            yield settings
        finally:
            embedded_postgres.stop(root)
            os.close(embedded_postgres._held_locks.pop(root))
            with (root / "watcher.lock").open() as watcher_lock:
                fcntl.flock(watcher_lock, fcntl.LOCK_EX)
            os.environ.pop(CASE_VARIABLE)

    def processes(self) -> list[psutil.Process]:
        """What a run has started and is still there, other than PostgreSQL and its watcher."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get(CASE_VARIABLE) == str(self.root)
                postgres = process.name() == "postgres" or "feature_repo.embedded_postgres" in process.cmdline()
                if ours and not postgres and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def sessions(self, settings: PostgresSettings) -> list[str]:
        """Applications connected to PostgreSQL."""
        with psycopg.connect(settings.url) as connection:
            rows = connection.execute(
                "SELECT application_name || ' ' || state || ': ' || left(query, 60) FROM pg_stat_activity "
                "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            ).fetchall()
        return [str(row[0]) for row in rows]

    def betrayals(self) -> list[str]:
        """Files in which a run, or what it started, has written the secret down."""
        folders = (self.data, self.home, self.root / "logs")
        found = subprocess.run(
            ["grep", "-rlF", CANARY, *map(str, folders)], check=False, capture_output=True, text=True
        )
        return found.stdout.splitlines()

    @contextmanager
    def full_disk(self, spare_bytes: int) -> Iterator[bool]:
        """Only so many bytes are left on the disk; False if it could not be filled, as others wrote and removed."""
        filler = self.data / "filler"
        try:
            yield until(lambda: self._fill(filler, spare_bytes), 5)
        finally:
            filler.unlink(missing_ok=True)

    def _fill(self, filler: Path, spare_bytes: int) -> bool:
        with filler.open("ab") as file, suppress(OSError):  # written to in between: there is less than it was
            missing = shutil.disk_usage(self.data).free - spare_bytes
            os.posix_fallocate(file.fileno(), 0, file.tell() + max(4096, missing))
        return shutil.disk_usage(self.data).free <= spare_bytes + 8192

    @contextmanager
    def read_only(self, folder: Path) -> Iterator[None]:
        """Nothing can be written in ``folder``, not even by root."""
        folder.mkdir(exist_ok=True)
        _mount("--bind", str(folder), str(folder))
        _mount("-o", "remount,bind,ro", str(folder))
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def until(condition: Callable[[], object], seconds: float) -> bool:
    """Wait for a condition; False if it did not come within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.03)
    return True


def _mount(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)
