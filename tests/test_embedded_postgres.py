"""The embedded server is shared, survives what is done to it, and goes away with its last user."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from feature_repo.database import PostgresSettings
from feature_repo.embedded_postgres import ensure_running
from feature_repo.paths import PROJECT_ROOT
from feature_repo.postgres_server import EmbeddedPostgresError, Folder

# Uses the server until its standard input ends.
USER = """
import sys
from pathlib import Path
from feature_repo.embedded_postgres import ensure_running
print(ensure_running(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""
NAMESPACE = ["unshare", "--user", "--map-user=1000", "--map-group=1000", "--"]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def root() -> Iterator[Path]:
    """The folder of a server that does not exist yet, with a space and a quote in its path."""
    with tempfile.TemporaryDirectory(prefix="it's a test ") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder).resolve() / "post gres"


@pytest.fixture
def start(root: Path) -> Iterator[Start]:
    """Starts processes that use the server; they, it and its watcher are gone when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*prefix: str, **environment: str) -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen(
                [*prefix, sys.executable, "-c", USER, str(root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=PROJECT_ROOT,
                env=os.environ | environment,
            )
        )
        return started[-1]

    yield start_one
    for process in started:
        end(process)
    wait_until(lambda: not processes_with(str(root)))


def end(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    with process:
        process.send_signal(number)


def socket_of(process: subprocess.Popen[str]) -> str:
    """The socket folder that the process reports when the server runs."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def postmaster(root: Path) -> int | None:
    """The server's process, or None where it is not running."""
    try:
        pid, *_ = (Folder(root).data / "postmaster.pid").read_text().split()
    except (FileNotFoundError, ValueError):  # ValueError: it is about to be written
        return None
    return int(pid)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about within 20 seconds")


def processes_with(argument: str) -> list[str]:
    """The command lines that contain it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((folder / "cmdline").read_bytes().decode(errors="replace"))
        except OSError:
            continue  # it ended meanwhile
    return [command for command in found if argument in command]


def query(host: str, sql: str) -> object:
    """The first value of the last statement's result."""
    with psycopg.connect(PostgresSettings(host=host, sslmode="disable").url) as connection:
        cursor = connection.execute(sql)
        while cursor.nextset():
            pass
        row = cursor.fetchone()
        return row[0] if row else None


def test_processes_share_one_server_even_if_they_start_at_the_same_time(root: Path, start: Start) -> None:
    users = [start() for _ in range(3)]
    (host,) = {socket_of(user) for user in users}
    server = postmaster(root)
    assert server is not None
    assert socket_of(start()) == host
    assert postmaster(root) == server
    assert query(host, "SELECT 1") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_the_server_goes_with_its_last_user_however_that_ended(root: Path, start: Start, number: int) -> None:
    first, last = start(), start()
    (host,) = {socket_of(first), socket_of(last)}
    end(first, number)
    time.sleep(0.6)  # three times what the watcher waits
    assert query(host, "SELECT 1") == 1
    end(last, number)
    wait_until(lambda: not processes_with(str(root)))
    assert postmaster(root) is None
    assert not Path(host).exists()


def test_the_server_returns_with_its_data_after_a_kill_9(root: Path, start: Start) -> None:
    host = socket_of(start())
    query(host, "CREATE TABLE kept AS SELECT 42 AS value; SELECT 1")
    killed = postmaster(root)
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    assert socket_of(start()) == host
    assert query(host, "SELECT value FROM kept") == 42
    assert postmaster(root) != killed


def test_a_user_that_comes_after_the_last_one_finds_the_data_again(root: Path, start: Start) -> None:
    first = start()
    query(socket_of(first), "CREATE TABLE kept AS SELECT 42 AS value; SELECT 1")
    end(first)
    wait_until(lambda: postmaster(root) is None)
    assert query(socket_of(start()), "SELECT value FROM kept") == 42


def test_a_pid_file_left_by_a_crash_may_name_a_process_of_somebody_else(root: Path, start: Start) -> None:
    first = start()
    socket_of(first)
    crashed = postmaster(root)
    assert crashed is not None
    pid_file = Folder(root).data / "postmaster.pid"
    left = pid_file.read_text()
    os.kill(crashed, signal.SIGKILL)
    with subprocess.Popen(["sleep", "60"]) as somebody:
        pid_file.write_text(left.replace(str(crashed), str(somebody.pid), 1))
        assert query(socket_of(start()), "SELECT 1") == 1
        assert somebody.poll() is None
        somebody.kill()


@pytest.mark.parametrize("user", ["1000", "23456"])
def test_an_ordinary_user_has_a_server_too(start: Start, user: str) -> None:
    if shutil.which("unshare") is None or subprocess.run([*NAMESPACE, "true"], check=False).returncode != 0:
        pytest.skip("user namespaces are not allowed here")
    host = socket_of(start(*(part.replace("1000", user) for part in NAMESPACE)))
    assert f"-{user}-" in host
    assert query(host, "SELECT 1") == 1


def test_root_has_a_server_where_user_namespaces_are_forbidden(start: Start, tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root needs another account, and setpriv to become it")
    for program in ("setpriv", "test"):
        (tmp_path / program).symlink_to(shutil.which(program) or program)
    host = socket_of(start(PATH=str(tmp_path)))  # without unshare
    assert Path(host).stat().st_uid == 65534
    assert query(host, "SELECT 1") == 1


def test_data_of_another_major_version_is_left_alone_and_named(root: Path) -> None:
    (root / "data").mkdir(parents=True)
    (root / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match=r"post gres/data was made by PostgreSQL 16, this is 18: dump it"):
        ensure_running(root)
    assert [path.name for path in (root / "data").iterdir()] == ["PG_VERSION"]


KILLED_WHEN: dict[str, Callable[[Path], bool]] = {
    "initdb has begun": lambda root: any(root.glob("initdb-*/PG_VERSION")),
    "the data are in place": lambda root: Folder(root).data.exists(),
    "the server has begun": lambda root: postmaster(root) is not None,
}


@pytest.mark.parametrize("moment", KILLED_WHEN)
def test_a_first_start_that_is_killed_leaves_nothing_in_the_way(root: Path, start: Start, moment: str) -> None:
    (root / "initdb-old" / "base").mkdir(parents=True)
    killed = start()
    wait_until(lambda: KILLED_WHEN[moment](root))
    end(killed)
    assert query(socket_of(start()), "SELECT 1") == 1
    assert not (root / "initdb-old").exists()
