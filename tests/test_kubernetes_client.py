"""The client as assets use it, on the fake cluster: real Dagster, the real SDK, pods as processes of this machine."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from kubeflow.trainer import CustomTrainerContainer
from kubernetes_wire import Fault, Wire
from kubernetes_wire_cluster import NAMESPACE, Cluster
from kubernetes_wire_kubelet import Kubelet
from trainjob_jobs import PREAMBLE, REPORTING, wait_until

from forecast_assets.trainjob import Patience, PipesTrainJobClient, Remedy, errors
from forecast_assets.trainjob.kubernetes import KubernetesPlatform

pytest_plugins = ["kubernetes_wire_fixtures"]

RESOURCES = {"cpu": 1, "memory": "1Gi"}


@pytest.fixture(autouse=True)
def _kubelet(wire: Wire, cluster: Cluster) -> Iterator[None]:
    kubelet = Kubelet(wire, cluster)
    yield
    kubelet.close()


def asset(
    platform: KubernetesPlatform, folder: Path, script: str, *, shared_volume: bool = True, **arguments: Any
) -> dg.AssetsDefinition:
    """An asset ``a_model`` materialized by a job that runs ``script`` on every node."""
    preamble = PREAMBLE if shared_volume else PREAMBLE.replace("SPEC = ", "SPEC = {'epochs': 3} #")
    (folder / "script.py").write_text(preamble + textwrap.dedent(script))
    waits = {"start_seconds": arguments.pop("start_seconds", 60.0), "api_seconds": arguments.pop("api_seconds", 20.0)}
    patience = Patience(**waits)
    client = PipesTrainJobClient(platform, folder / "records" if shared_volume else None, patience=patience)
    given: dict[str, Any] = {
        "trainer": CustomTrainerContainer(image="python"),
        "resources_per_node": RESOURCES,
        "runtime": "forecast-torch-cpu",
        "command": ["python"],
        "args": [str(folder / "script.py"), *(["{spec}"] if shared_volume else [])],
        "spec": {"epochs": 3},
        **arguments,
    }

    @dg.asset
    def a_model(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        yield from client.run(context=context, **given).get_results()

    return a_model


def stored(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("a_model")
    return {name: value.value for name, value in event.metadata.items()}


@pytest.mark.parametrize("shared_volume", [True, False], ids=["by the file", "by the log"])
def test_what_the_job_reports_is_stored_with_the_way_to_find_it(
    platform: KubernetesPlatform, tmp_path: Path, shared_volume: bool
) -> None:
    received: list[Any] = []
    result = dg.materialize(
        [asset(platform, tmp_path, REPORTING, shared_volume=shared_volume, num_nodes=2, on_message=received.append)]
    )
    metadata = stored(result)
    assert metadata["nodes"] == 2
    assert [message["epoch"] for message in received] == [0, 1, 2]
    assert metadata["trainjob/kubectl"] == f"kubectl -n {NAMESPACE} describe trainjob {metadata['trainjob']}"


def test_messages_survive_noise_in_the_log_and_a_server_that_comes_and_goes(
    platform: KubernetesPlatform, wire: Wire, tmp_path: Path
) -> None:
    script = """
        with open_dagster_pipes() as pipes:
            for epoch in range(200):
                sys.stdout.buffer.write(b"\\xff\\xfe noise without an end " * 10)
                sys.stdout.flush()
                pipes.report_custom_message({"type": "epoch", "epoch": epoch})
                print("noise", epoch, flush=True)
                time.sleep(0.003)
            pipes.report_asset_materialization()
    """
    received: list[Any] = []

    def note(message: Any) -> None:
        if not received:
            wire.faults = [
                Fault("GET", "/log", status=500, times=2),
                Fault("GET", "/pods", status=429, headers={"Retry-After": "0"}, times=5),
                Fault("GET", "trainjobs/", times=8),
            ]
        received.append(message)

    dg.materialize([asset(platform, tmp_path, script, shared_volume=False, on_message=note)])
    assert not any(fault.times for fault in wire.faults)
    assert [message["epoch"] for message in received] == list(range(200))


def test_a_job_whose_creation_got_no_answer_is_adopted_not_started_twice(
    platform: KubernetesPlatform, wire: Wire, tmp_path: Path
) -> None:
    wire.faults = [Fault("POST", "trainjobs", status=500), Fault("POST", "trainjobs", carried_out=True)]
    result = dg.materialize([asset(platform, tmp_path, REPORTING)])
    assert stored(result)["nodes"] == 1
    assert len(wire.find("trainjobs", NAMESPACE)) == 1


def test_a_failing_node_is_quoted_with_its_status(platform: KubernetesPlatform, tmp_path: Path) -> None:
    script = 'sys.exit("rank 1 has no more patience") if NODE == 1 else time.sleep(2)'
    with pytest.raises(errors.JobFailedError, match="rank 1 has no more patience") as failure:
        dg.materialize([asset(platform, tmp_path, script, num_nodes=2)])
    assert failure.value.details.exit_code == 1
    assert failure.value.details.namespace == NAMESPACE


def test_a_job_short_of_memory_is_tried_again_with_more(
    platform: KubernetesPlatform, wire: Wire, tmp_path: Path
) -> None:
    script = """
        if not (HERE / "tried").exists():
            (HERE / "tried").touch()
            os.kill(os.getpid(), 9)
    """
    recovery = {"out_of_memory": Remedy("more memory", memory_factor=1.5)}
    dg.materialize([asset(platform, tmp_path, textwrap.dedent(script) + REPORTING, recovery=recovery)])
    jobs = sorted(wire.find("trainjobs", NAMESPACE), key=lambda job: str(job["metadata"]["name"]))
    memory = [job["spec"]["trainer"]["resourcesPerNode"]["limits"]["memory"] for job in jobs]
    assert memory == ["1Gi", "1.5Gi"]


def test_a_job_whose_machine_is_lost_is_tried_again_though_its_log_is_out_of_reach(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster, tmp_path: Path
) -> None:
    script = """
        if not (HERE / "lost").exists():
            if NODE == 0:
                with open_dagster_pipes() as pipes:
                    pipes.report_custom_message({"type": "epoch"})
                    time.sleep(600)
            time.sleep(600)
    """

    def die(_: Any) -> None:
        pod = next(pod for pod in wire.find("pods", NAMESPACE) if "-node-0-1-" in pod["metadata"]["name"])
        wait_until(lambda: pod["status"]["phase"] == "Running")
        wire.faults = [Fault("GET", f"{pod['metadata']['name']}/log", status=500, message="i/o timeout", times=10**6)]
        cluster.silence_machine(pod)
        (tmp_path / "lost").touch()

    result = dg.materialize(
        [
            asset(
                replace(platform, node_lost_seconds=2.0),
                tmp_path,
                textwrap.dedent(script) + REPORTING,
                num_nodes=2,
                spec={},
                api_seconds=0.5,
                on_message=die,
                recovery={"node_lost": Remedy("the same again")},
            )
        ]
    )

    attempts = stored(result)["trainjob/attempts"]
    assert "node_lost: its machine has not answered for" in attempts
    assert len(wire.find("trainjobs", NAMESPACE)) == 2


def test_a_job_without_room_is_given_up_with_the_schedulers_words(
    platform: KubernetesPlatform, wire: Wire, tmp_path: Path
) -> None:
    too_much = {"cpu": 5000, "memory": "1Gi"}
    with pytest.raises(errors.UnschedulableError, match="1 Insufficient cpu"):
        dg.materialize([asset(platform, tmp_path, "pass", resources_per_node=too_much, start_seconds=0.3)])
    assert wire.find("trainjobs", NAMESPACE) == []
    assert wire.find("pods", NAMESPACE) == []


def test_a_job_deleted_under_our_feet_is_said_to_be(platform: KubernetesPlatform, wire: Wire, tmp_path: Path) -> None:
    def delete(_: Any) -> None:
        (job,) = wire.find("trainjobs", NAMESPACE)
        wire.delete_job(NAMESPACE, job["metadata"]["name"])

    script = """
        with open_dagster_pipes() as pipes:
            pipes.report_custom_message({"type": "epoch"})
            time.sleep(600)
    """
    with pytest.raises(errors.JobGoneError, match="deleted while it was followed"):
        dg.materialize([asset(platform, tmp_path, script, on_message=delete)])


def test_a_deadline_is_the_reason_though_its_pods_are_gone(platform: KubernetesPlatform, tmp_path: Path) -> None:
    with pytest.raises(errors.DeadlineExceededError):
        dg.materialize([asset(platform, tmp_path, "time.sleep(600)", deadline_seconds=1)])


def test_a_silent_job_has_failed(platform: KubernetesPlatform, tmp_path: Path) -> None:
    with pytest.raises(errors.NoResultError):
        dg.materialize([asset(platform, tmp_path, "pass")])


FOLLOWER = """
    import sys, pathlib
    import dagster as dg
    from test_kubernetes_client import ADOPTABLE, asset
    from forecast_assets.trainjob.kubernetes import KubernetesPlatform

    platform = KubernetesPlatform(namespace={namespace!r}, kubeconfig={kubeconfig!r}, poll_seconds=0.05)
    dg.materialize([asset(platform, pathlib.Path({folder!r}), ADOPTABLE, identity="same", shared_volume=False)])
"""
ADOPTABLE = """
    with open_dagster_pipes() as pipes:
        for epoch in range(3):
            pipes.report_custom_message({"type": "epoch", "epoch": epoch})
            (HERE / "begun").touch()
            while epoch and not (HERE / "go-on").exists():
                time.sleep(0.02)
        pipes.report_asset_materialization(metadata={"nodes": 1})
"""


def test_when_the_step_is_killed_the_next_adopts_the_job_and_reads_all_it_said(
    platform: KubernetesPlatform, wire: Wire, tmp_path: Path
) -> None:
    script = FOLLOWER.format(namespace=NAMESPACE, kubeconfig=platform.kubeconfig, folder=str(tmp_path))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    first = subprocess.Popen([sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)], env=environment)
    wait_until((tmp_path / "begun").exists)
    first.send_signal(signal.SIGKILL)
    first.wait()

    received: list[Any] = []

    def note(message: Any) -> None:
        received.append(message)
        (tmp_path / "go-on").touch()

    second = asset(platform, tmp_path, ADOPTABLE, identity="same", shared_volume=False, on_message=note)
    assert stored(dg.materialize([second]))["nodes"] == 1
    assert [message["epoch"] for message in received] == [0, 1, 2]
    assert len(wire.find("trainjobs", NAMESPACE)) == 1
