"""A server whose machine vanishes without closing its connections is noticed by every kind of client."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import psycopg
import pytest
import sqlalchemy
import yaml
from dagster_postgres.utils import get_conn_string
from online_example import PER_STORE, example_store, sizes, write
from torture.proxy import Proxy

from feature_repo.database import NOTICING, PostgresSettings
from feature_repo.paths import PROJECT_ROOT
from feature_repo.retrieval_job import fetch

OF_THE_KERNEL = {
    "keepalives_idle": socket.TCP_KEEPIDLE,
    "keepalives_interval": socket.TCP_KEEPINTVL,
    "keepalives_count": socket.TCP_KEEPCNT,
    "tcp_user_timeout": socket.TCP_USER_TIMEOUT,
}
DEPLOY = PROJECT_ROOT / "deploy"


class Noting(Proxy):
    """Notes what the kernel knows of the client's end of each connection, which is in this process."""

    def __init__(self, sockets: str) -> None:
        super().__init__(sockets)
        self.seen: list[dict[str, int]] = []

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        self.seen.append(_options(client.getpeername()))
        super()._pass_on(client, server)


def _options(address: tuple[str, int]) -> dict[str, int]:
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if not os.readlink(path).startswith("socket:"):
                continue  # duplicates of other files would hold their locks
            with socket.socket(fileno=os.dup(int(path.name))) as found:
                if found.family == socket.AF_INET and found.getsockname() == address:
                    assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                    return {name: found.getsockopt(socket.IPPROTO_TCP, of) for name, of in OF_THE_KERNEL.items()}
    return {}


def test_every_kind_of_connection_has_limits_of_its_own(database: PostgresSettings) -> None:
    expected = {name: NOTICING[name] for name in OF_THE_KERNEL}
    with Noting(database.host) as proxy:
        settings = replace(database, host="127.0.0.1", port=proxy.port)

        def is_noted() -> bool:
            seen = list(proxy.seen)
            proxy.seen.clear()
            return bool(seen) and all(each == expected for each in seen)

        with psycopg.connect(settings.url) as connection:
            assert is_noted()
            parameters = connection.info.get_parameters()
            assert {name: parameters[name] for name in NOTICING} == {name: str(v) for name, v in NOTICING.items()}
        with adbc.connect(settings.url):
            assert is_noted()
        engine = sqlalchemy.create_engine(settings.sqlalchemy_url(schema="public"))
        engine.connect().close()
        engine.dispose()
        assert is_noted()
        with example_store(settings) as store:
            write(store, PER_STORE, {(1,): {"size": 1}})
            assert sizes(store, 1) == [1]
            assert is_noted()
            fetch(store.config, "SELECT 1")
            assert is_noted()
        dagsters: dict[str, Any] = yaml.safe_load((DEPLOY / "server" / "dagster.yaml").read_text())
        address = {"username": settings.user, "hostname": settings.host, "port": settings.port, "db_name": "postgres"}
        engine = sqlalchemy.create_engine(
            get_conn_string(**{**dagsters["storage"]["postgres"]["postgres_db"], **address, "password": "x"})
        )
        engine.connect().close()
        engine.dispose()
        assert is_noted()


def test_limits_in_manifests_are_those_of_the_code() -> None:
    noticing = {name: str(value) for name, value in NOTICING.items()}
    server = yaml.safe_load((DEPLOY / "server" / "dagster.yaml").read_text())["storage"]["postgres"]["postgres_db"]
    chart = yaml.safe_load((DEPLOY / "helm" / "dagster.yaml").read_text())["postgresql"]["postgresqlParams"]
    assert server["params"] == NOTICING
    assert chart == {**NOTICING, "sslmode": "require"}
    urls = [
        url
        for component in ("feature-server/feature-server.yaml", "feast-operator/feature-store.yaml")
        for url in re.findall(r"postgresql\+psycopg://\S+", (DEPLOY / "components" / component).read_text())
    ]
    assert len(urls) == 2
    assert all(noticing.items() <= sqlalchemy.make_url(url).query.items() for url in urls)
    cluster = next(yaml.safe_load_all((DEPLOY / "base" / "postgres" / "cluster.yaml").read_text()))["spec"]
    parameters = cluster["postgresql"]["parameters"]
    of_the_server = {name.replace("keepalives", "tcp_keepalives"): name for name in OF_THE_KERNEL}
    assert {ours: parameters[name] for name, ours in of_the_server.items()}.items() <= noticing.items()


def test_a_vanished_server_is_noticed_within_half_a_minute() -> None:
    waiting = NOTICING["keepalives_idle"] + NOTICING["keepalives_interval"] * NOTICING["keepalives_count"]
    assert max(waiting, NOTICING["tcp_user_timeout"] / 1000, NOTICING["connect_timeout"]) <= 30


def alone(*program: str) -> subprocess.CompletedProcess[str]:
    """Run in a network of its own, which ends with it."""
    command = ["unshare", "--map-root-user", "--net", *program]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=PROJECT_ROOT, check=False)


def test_when_packets_are_dropped_every_client_notices_and_its_step_is_run_again(database: PostgresSettings) -> None:
    if shutil.which("unshare") is None or alone("iptables", "-A", "INPUT", "-j", "DROP").returncode:
        pytest.skip("needs unshare, iptables and the right to have a network of its own")
    limits = {"connect_timeout": 2, "keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 1}
    short = json.dumps({**NOTICING, **limits, "tcp_user_timeout": 2_000})

    done = alone(sys.executable, "tests/vanishing_server.py", database.host, database.database, short)

    assert done.returncode == 0, done.stderr
    noticed = json.loads(done.stdout)
    assert noticed.keys() == {"wait", "send", "connect"}
    assert all(again and seconds < 10 for seconds, again in noticed.values()), (noticed, done.stderr)
