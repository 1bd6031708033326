"""An embedded PostgreSQL server shared by every process that uses the same data folder.

Each process that needs the server holds a *shared* lock on ``users.lock`` for as long as it lives. The first one
starts the server and a watcher process, which asks for the *exclusive* lock: the kernel grants it when the last
user is gone, however it ended, and the watcher then stops the server. No counter can go stale after a kill -9.

    python -m feature_repo.embedded_postgres stop|status     # for people and the Makefile
"""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from feature_repo.paths import data_dir
from feature_repo.postgres_server import Folder, create_cluster, create_database, is_running, shut_down, start

IDLE_SECONDS = float(os.environ.get("EMBEDDED_POSTGRES_IDLE_SECONDS", "5"))

_held_locks: dict[Path, int] = {}


def ensure_running(root: Path) -> Path:
    """Start the server of ``root`` unless it runs, and keep it running for the life of this process.

    Returns:
        The folder of the server's unix socket, to be used as ``host``.

    Raises:
        EmbeddedPostgresError: the server cannot be installed or started.
    """
    folder = Folder(root.resolve())
    folder.root.mkdir(parents=True, exist_ok=True)
    if folder.root not in _held_locks:
        # Blocks while a watcher that holds the exclusive lock is stopping the server.
        _held_locks[folder.root] = _open_locked(folder.root / "users.lock", fcntl.LOCK_SH)
    with _locked(folder.root / "start.lock"):
        if not is_running(folder):
            create_cluster(folder)
            start(folder)
        create_database(folder)
        _ensure_watched(folder)
    return folder.sockets


def stop(root: Path) -> None:
    """Stop the server of ``root`` whoever uses it; its data stays."""
    folder = Folder(root.resolve())
    if folder.data.exists():
        with _locked(folder.root / "start.lock"):
            shut_down(folder)


def watch(root: Path) -> None:
    """Wait until no process uses the server for ``IDLE_SECONDS``, then stop it."""
    folder = Folder(root.resolve())
    try:
        watcher_lock = _open_locked(folder.root / "watcher.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    while True:
        os.close(_open_locked(folder.root / "users.lock", fcntl.LOCK_EX))
        time.sleep(IDLE_SECONDS)
        try:
            users_lock = _open_locked(folder.root / "users.lock", fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return
        except BlockingIOError:
            continue
        stop(folder.root)
        # Release the watcher's lock first: whoever waits for the users' lock must find no watcher and start one.
        os.close(watcher_lock)
        os.close(users_lock)
        return


def _ensure_watched(folder: Folder) -> None:
    try:
        os.close(_open_locked(folder.root / "watcher.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        return
    subprocess.run(
        [sys.executable, "-m", "feature_repo.embedded_postgres", "watch", str(folder.root)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parent.parent,
        start_new_session=True,
        check=True,
    )


def _open_locked(path: Path, operation: int) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _open_locked(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def main(arguments: list[str]) -> int:
    """``stop|status|watch [FOLDER]``; the folder defaults to the project's own."""
    action = arguments[0] if arguments else "status"
    root = Path(arguments[1]) if len(arguments) > 1 else data_dir() / "postgres"
    if action == "watch":
        # In the background and not as the caller's child, who would have to reap it.
        if os.fork() == 0:
            watch(root)
    elif action == "stop":
        stop(root)
    elif action == "status":
        sys.stdout.write("running\n" if is_running(Folder(root.resolve())) else "stopped\n")
    else:
        sys.stderr.write(f"unknown action {action!r}: stop, status or watch\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
