"""Clients of a server whose machine vanishes: what each of them comes to, in a network of its own.

``unshare --map-root-user --net python tests/vanishing_server.py FOLDER DATABASE [LIMITS]``; ``FOLDER`` is that of the
server's unix socket, ``LIMITS`` JSON in place of ``NOTICING``. All packets are dropped while one client waits for an
answer, one sends and one connects. Prints by client: seconds until it noticed, and whether its step would be run again.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import adbc_driver_postgresql.dbapi as adbc
import dagster as dg
import psycopg
import pyarrow as pa
from torture.proxy import Proxy

from feature_repo import database
from feature_repo.database import PostgresSettings
from forecast_assets.retries import retried_when_connections_break

WAITS = 60


def main(folder: str, name: str, limits: str = "") -> None:
    if limits:
        database.NOTICING = json.loads(limits)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with Proxy(folder) as proxy:
        settings = PostgresSettings(host="127.0.0.1", port=proxy.port, database=name, sslmode="disable")
        sys.stdout.write(json.dumps(_noticed(settings)) + "\n")


def _noticed(settings: PostgresSettings) -> dict[str, tuple[float, bool]]:
    at_work = threading.Barrier(3)
    vanished = threading.Event()

    def wait() -> None:
        with psycopg.connect(settings.url) as connection:
            at_work.wait()
            connection.execute("SELECT pg_sleep(%s)", [WAITS])

    def send() -> None:
        rows = pa.table({"value": range(10_000)})
        with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
            cursor.adbc_ingest("sent", rows, mode="create", temporary=True)
            at_work.wait()
            while True:
                cursor.adbc_ingest("sent", rows, mode="append", temporary=True)

    def connect() -> None:
        vanished.wait()
        psycopg.connect(settings.url)

    with ThreadPoolExecutor() as pool:
        clients = {work.__name__: pool.submit(_ends, work) for work in (wait, send, connect)}
        at_work.wait()
        time.sleep(0.2)
        subprocess.run(["iptables", "-A", "INPUT", "-i", "lo", "-p", "tcp", "-j", "DROP"], check=True)
        since = time.monotonic()
        vanished.set()
        ends = {name: client.result() for name, client in clients.items()}
    return {name: (round(ended - since, 1), again) for name, (ended, again) in ends.items()}


def _ends(work: Callable[[], None]) -> tuple[float, bool]:
    try:
        with retried_when_connections_break():
            work()
    except Exception as error:
        sys.stderr.write(f"{work.__name__}: {error.__cause__ or error}\n")
        return time.monotonic(), isinstance(error, dg.RetryRequested)
    raise AssertionError(f"{work.__name__} noticed nothing")


if __name__ == "__main__":
    main(*sys.argv[1:])
