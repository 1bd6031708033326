"""PostgreSQL as CloudNativePG runs it: a primary, streaming replicas, and one address that leads to the primary.

The instances are real servers, set up as `deploy/base/postgres/cluster.yaml` says: so many of them, and commits that
wait for as many replicas. The operator's part is played here: it refuses connections while there is no primary, and
promotes the replica that has received most.
"""

import asyncio
import contextlib
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import yaml

from feature_repo.database import PostgresSettings
from feature_repo.paths import PROJECT_ROOT
from feature_repo.postgres_server import DATABASE, SUPERUSER, EmbeddedPostgresError, Folder, _run, create_cluster

MANIFEST = PROJECT_ROOT / "deploy" / "base" / "postgres" / "cluster.yaml"
_HOST = "127.0.0.1"


class Address:
    """A TCP address that leads to a changing port, as a Service leads to a changing pod."""

    def __init__(self) -> None:
        self.port = _free_port()
        self._target: int | None = None
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="address")
        self._thread.start()

    def lead_to(self, port: int | None) -> None:
        """Lead new connections to ``port``; None refuses them. Those that are open stay as they are."""
        self._wait_for(self._lead_to(port))

    def close(self) -> None:
        """End all connections."""
        self._wait_for(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait_for(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _lead_to(self, port: int | None) -> None:
        self._target = port
        if port is None and self._server is not None:
            for listener in self._server.sockets:
                self._loop.remove_reader(listener)
            await asyncio.sleep(0)  # A closed server leaves open what it has accepted and not yet taken over.
            self._server.close()
            self._server = None
        elif port is not None and self._server is None:
            self._server = await asyncio.start_server(self._connected, _HOST, self.port)

    async def _end(self) -> None:
        await self._lead_to(None)
        # More than once: a connection that was just accepted has yet to become a task of its own.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for writer in self._open:
                writer.close()
            await asyncio.gather(*others)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(_HOST, self._target)
            ends.append(back)
            self._open |= {*ends}
            await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
        for end in ends:
            self._open.discard(end)
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()


@dataclass(frozen=True, slots=True)
class Instance:
    """One server of the cluster."""

    name: str
    folder: Folder
    port: int

    @property
    def settings(self) -> PostgresSettings:
        """Its own address."""
        return PostgresSettings(host=_HOST, port=self.port, sslmode="disable")

    @property
    def log(self) -> Path:
        """What the server has to say."""
        return self.folder.data / "server.log"


class Cluster:
    """Instances, of which one is primary. ``settings`` is what clients are given."""

    def __init__(self, root: Path) -> None:
        spec = next(d for d in yaml.safe_load_all(MANIFEST.read_text()) if d["kind"] == "Cluster")["spec"]
        self._address = Address()
        self.settings = PostgresSettings(host=_HOST, port=self._address.port, sslmode="disable")
        self.instances = [
            Instance(f"instance_{number}", Folder(root / f"instance_{number}"), _free_port())
            for number in range(1, spec["instances"] + 1)
        ]
        self.primary = self.instances[0]
        synchronous = spec["postgresql"]["synchronous"]
        names = ", ".join(each.name for each in self.instances)
        self._synchronous = f"{synchronous['method'].upper()} {synchronous['number']} ({names})"

    def start(self) -> None:
        """Create and start all instances."""
        self.primary.folder.root.mkdir()
        create_cluster(self.primary.folder)
        self._start(self.primary)
        self._address.lead_to(self.primary.port)
        for instance in self.instances[1:]:
            self.join(instance)
        with psycopg.connect(self.primary.settings.url.replace(f"/{DATABASE}?", "/postgres?"), autocommit=True) as each:
            each.execute(f"CREATE DATABASE {DATABASE}")

    def join(self, instance: Instance) -> None:
        """Make ``instance`` a replica of the present primary: new, or in place of what a killed primary left."""
        shutil.rmtree(instance.folder.root, ignore_errors=True)
        instance.folder.root.mkdir()
        primary = ("-h", _HOST, "-p", str(self.primary.port), "-U", SUPERUSER)
        _do(instance, "pg_basebackup", *primary, "-cfast")
        (instance.folder.data / "standby.signal").touch()
        self._start(instance)
        with psycopg.connect(self._maintenance(self.primary), autocommit=True) as connection:
            query = "SELECT count(*) FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'"
            while connection.execute(query, [instance.name]).fetchone() == (0,):
                time.sleep(0.05)

    def kill_primary(self) -> None:
        """End all processes of the primary at once, as with its container. No connection is accepted after it."""
        postmaster = psutil.Process(int(self.primary.folder.pid_file.read_text().split()[0]))
        postmaster.suspend()  # it would start others in place of those that end first
        for process in (*postmaster.children(), postmaster):
            process.kill()
        self.primary.folder.pid_file.unlink()
        self._address.lead_to(None)

    def promote(self) -> Instance:
        """Make the replica that has received most the primary, and lead the address there. Returns the old one."""
        replicas = [each for each in self.instances if each is not self.primary]
        received = {each.name: self._ask(each, "SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn") for each in replicas}
        before, self.primary = self.primary, max(replicas, key=lambda each: received[each.name])
        self._ask(self.primary, "SELECT pg_promote()")
        self._address.lead_to(self.primary.port)
        return before

    def restart_primary(self) -> None:
        """End the primary as if its machine lost power, and start it again."""
        self._address.lead_to(None)
        _do(self.primary, "pg_ctl", "restart", "-m", "immediate", "-w", "-l", str(self.primary.log))
        self._address.lead_to(self.primary.port)

    def fail_over(self, detection_seconds: float) -> float:
        """Kill the primary and promote a replica after ``detection_seconds``.

        Returns:
            Seconds from the kill until the address leads to a primary that takes writes.
        """
        started = time.monotonic()
        self.kill_primary()
        time.sleep(detection_seconds)
        self.promote()
        return time.monotonic() - started

    def stop(self) -> None:
        """Stop what runs."""
        self._address.close()
        for instance in self.instances:
            if instance.folder.pid_file.exists():
                _do(instance, "pg_ctl", "stop", "-m", "immediate", "-w")

    def _start(self, instance: Instance) -> None:
        settings = {
            "listen_addresses": _HOST,
            "port": instance.port,
            "unix_socket_directories": "",
            "timezone": "UTC",
            "shared_buffers": "64MB",
            "jit": "off",
            # It is processes that are killed here, not the machine.
            "fsync": "off",
            "hot_standby_feedback": "on",
            "synchronous_standby_names": self._synchronous,
            "wal_retrieve_retry_interval": "200ms",
            # By the address, not by name: after a failover the other replicas follow the new primary.
            "primary_conninfo": f"host={_HOST} port={self._address.port} user={SUPERUSER} "
            f"application_name={instance.name}",
        }
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        (instance.folder.data / "postgresql.auto.conf").write_text("".join(lines))
        _do(instance, "pg_ctl", "start", "-w", "-l", str(instance.log))

    def _ask(self, instance: Instance, query: str) -> Any:
        with psycopg.connect(self._maintenance(instance), autocommit=True) as connection:
            return (connection.execute(query.encode()).fetchone() or (None,))[0]

    def _maintenance(self, instance: Instance) -> str:
        return instance.settings.url.replace(f"/{DATABASE}?", "/postgres?")


@contextmanager
def replicated_postgres() -> Iterator[Cluster]:
    """A running cluster in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="replicated-") as name:
        Path(name).chmod(0o755)  # where the servers have to run as 'nobody', that account must be able to enter
        cluster = Cluster(Path(name).resolve())
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _do(instance: Instance, program: str, *arguments: str) -> None:
    done = _run(instance.folder, program, *arguments)
    if done.returncode:
        said = instance.log.read_text() if instance.log.exists() else ""
        raise EmbeddedPostgresError(f"{program} of {instance.name} failed: {done.stderr}{said}")


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])
