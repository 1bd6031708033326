"""The PostgreSQL primary is killed in the middle of everything: commits, requests, a retrieval, a materialization.

The cluster is one of real servers, with as many replicas as `deploy/base/postgres` has, and so are the clients; Dagster
keeps the history of its runs in it.
"""

import contextlib
import gc
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import dagster as dg
import psycopg
import pytest

from benchmarks.failover import Failover, fail_over
from benchmarks.failover_clients import environment, hold, materialized, prepare, service, variables
from benchmarks.replicated_postgres import Address, Cluster, replicated_postgres
from forecast_assets.assets.training_frame import training_frame
from forecast_assets.frame_store import FrameStore
from forecast_assets.retries import retried_when_connections_break


@dataclass(frozen=True)
class Proof:
    """The cluster after a failover, and what was seen of it."""

    cluster: Cluster
    folder: Path
    seen: Failover

    def events(self, run_id: str) -> list[dg.DagsterEvent]:
        """The history of a run."""
        with variables(environment(self.cluster.settings, self.folder)), dg.DagsterInstance.get() as instance:
            return [entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event]


@pytest.fixture(scope="module")
def proof(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proof]:
    folder = tmp_path_factory.mktemp("failover")
    with replicated_postgres() as cluster:
        keys = prepare(cluster.settings, folder, size=0.01)
        with variables(environment(cluster.settings, folder)), service() as client:
            seen = fail_over(cluster, client, keys, detection=1)
        yield Proof(cluster, folder, seen)


def test_no_commit_that_was_answered_is_lost(proof: Proof) -> None:
    committing = proof.seen.committing
    assert proof.seen.lost == set()
    before = [number for when, number in committing.told if number is not None and when < proof.seen.killed]
    after = [number for when, number in committing.told if number is not None and when > proof.seen.killed]
    assert min(len(before), len(after)) > 10
    assert committing.refusals


def test_the_service_at_most_tells_to_come_again_and_then_answers_as_before(proof: Proof) -> None:
    asking = proof.seen.asking
    # None, where the three attempts of the request that was being answered outlast the outage.
    assert asking.refusals <= {"503 the online store does not answer: try again in a moment"}
    assert all(answer == asking.answered[0] for answer in asking.answered)
    assert asking.told[-1][1] is not None
    assert asking.back_after(proof.seen.killed) < proof.seen.outage + 10


def test_a_retrieval_is_retried_and_the_frame_is_whole(proof: Proof) -> None:
    assert proof.seen.retrieval.success
    assert proof.seen.retrieval.retries >= 1
    current = FrameStore(proof.folder / "data" / "frames").current()
    assert current is not None
    with psycopg.connect(proof.cluster.settings.url) as connection:
        labelled = connection.execute("SELECT count(*) FROM sales_features WHERE weekly_sales IS NOT NULL").fetchone()
    assert labelled == (current[1].rows,)


def test_a_materialization_goes_on_and_what_is_served_is_what_was_trained_on(proof: Proof) -> None:
    assert proof.seen.materialization.success
    events = proof.events(proof.seen.materialization.run_id)
    checks = [e.asset_check_evaluation_data for e in events if e.event_type_value == "ASSET_CHECK_EVALUATION"]
    assert [(check.check_name, check.passed) for check in checks] == [("online_equals_offline", True)]


def test_dagster_has_the_whole_history_of_runs_that_lived_through_it(proof: Proof) -> None:
    for run in (proof.seen.retrieval, proof.seen.materialization):
        types = [event.event_type_value for event in proof.events(run.run_id)]
        assert types.count("ASSET_MATERIALIZATION") == 1
        assert types.count("STEP_UP_FOR_RETRY") == types.count("STEP_RESTARTED") == run.retries
        assert types[-1] == dg.DagsterEventType.RUN_SUCCESS.value


def test_a_run_goes_on_when_the_server_restarts_under_it_and_under_its_history(proof: Proof) -> None:
    address = proof.cluster.settings
    with (
        variables(environment(address, proof.folder)),
        ThreadPoolExecutor() as pool,
        hold(proof.cluster.primary.settings) as held,
    ):
        held.lock("store_features", "ACCESS EXCLUSIVE")
        running = pool.submit(materialized, training_frame)
        held.until(1)
        proof.cluster.restart_primary()
        result = running.result()
    assert (result.success, result.retries) == (True, 1)


def test_a_connection_that_breaks_while_rows_come_in_is_a_reason_to_try_again(proof: Proof) -> None:
    with pytest.raises(dg.RetryRequested):
        read_through_a_restart(proof.cluster)


def test_an_address_that_stops_leading_anywhere_leaves_no_connection_open() -> None:
    # A connection that is left open warns as it is collected, which pytest makes an error of this test.
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        address = Address()
        ended = threading.Event()
        knocking = [pool.submit(knock, address.port, ended) for _ in range(4)]
        for _ in range(40):
            address.lead_to(server.getsockname()[1])
            time.sleep(0.005)
            address.lead_to(None)
        ended.set()
        assert sum(client.result() for client in knocking) > 40
        address.close()
    gc.collect()


def test_other_errors_are_no_reason_to_try_again() -> None:
    for error in (OSError("disk full"), psycopg.errors.UniqueViolation("twice"), ValueError("no")):
        with pytest.raises(type(error)), retried_when_connections_break():
            raise error


def test_a_database_that_refuses_the_user_is_no_reason_to_try_again(
    proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(proof.cluster.settings, database="nowhere")
    monkeypatch.setenv("POSTGRES_HOST", settings.host)
    with (
        pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist') as refusal,
        retried_when_connections_break(),
        retried_when_connections_break(),
    ):
        psycopg.connect(settings.url)
    (advice,) = refusal.value.__notes__
    assert "POSTGRES_HOST" in advice


def test_a_setting_that_means_nothing_is_no_reason_to_try_again(proof: Proof) -> None:
    with pytest.raises(psycopg.OperationalError, match="sslmode"), retried_when_connections_break():
        psycopg.connect(replace(proof.cluster.settings, sslmode="on").url)


def test_a_user_without_the_right_to_create_is_told_of_it() -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege) as refusal, retried_when_connections_break():
        raise psycopg.errors.InsufficientPrivilege("permission denied for schema public")
    assert refusal.value.__notes__ == [
        "The database user needs the right to create tables and schemas in the database."
    ]


def knock(port: int, ended: threading.Event) -> int:
    """Connects again and again; returns how often it could."""
    connected = 0
    while not ended.is_set():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            connected += 1
    return connected


def read_through_a_restart(cluster: Cluster) -> None:
    with (
        retried_when_connections_break(),
        adbc.connect(cluster.settings.url) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT repeat('a', 10000) FROM generate_series(1, 100000)")
        with cursor.fetch_record_batch() as reader:
            reader.read_next_batch()
            cluster.restart_primary()
            reader.read_all()
