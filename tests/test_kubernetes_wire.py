"""The wire behaves as a Kubernetes API server does where the SDK and our observer rely on it: judged by the SDK."""

import time
from pathlib import Path
from typing import Any

import pytest
from kubeflow.common.types import KubernetesBackendConfig
from kubeflow.trainer import CustomTrainerContainer, TrainerClient
from kubeflow.trainer.options import Labels, Name, TrainerCommand
from kubernetes import client as kubernetes_client
from kubernetes import config as kubernetes_config
from kubernetes import watch
from kubernetes_wire import Fault, Wire
from kubernetes_wire_cluster import NAMESPACE, Cluster

pytest_plugins = ["kubernetes_wire_fixtures"]


@pytest.fixture
def sdk(wire: Wire, tmp_path: Path) -> TrainerClient:
    file = wire.write_kubeconfig(tmp_path / "kubeconfig", NAMESPACE)
    return TrainerClient(KubernetesBackendConfig(namespace=NAMESPACE, config_file=str(file)))


def submit(sdk: TrainerClient, cluster: Cluster, name: str = "a-job", **kwargs: Any) -> str:
    trainer = CustomTrainerContainer(
        image="trainer", num_nodes=2, resources_per_node={"cpu": 2, "memory": "4Gi"}, **kwargs
    )
    options = [Name(name), Labels({"run": "r1"}), TrainerCommand(["torchrun"])]
    return sdk.train(runtime=sdk.get_runtime(cluster.runtime), trainer=trainer, options=options)


def test_the_sdk_lists_our_runtime_and_submits_a_job_that_is_stored_as_sent(
    sdk: TrainerClient, cluster: Cluster
) -> None:
    assert [runtime.name for runtime in sdk.list_runtimes()] == [cluster.runtime]

    submit(sdk, cluster)

    job = cluster.job("a-job")
    assert job["metadata"]["labels"] == {"run": "r1"}
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"] == {"cpu": 2, "memory": "4Gi"}
    assert sdk.get_job("a-job").status == "Created"


def test_the_sdk_sees_pods_run_and_the_job_complete(sdk: TrainerClient, cluster: Cluster) -> None:
    submit(sdk, cluster)
    pods = cluster.start("a-job", nodes=2)
    for pod in pods:
        cluster.running(pod).write("epoch 1")
    assert sdk.get_job("a-job").status == "Running"
    assert list(sdk.get_job_logs("a-job")) == ["epoch 1"]

    for pod in pods:
        cluster.terminated(pod)
    cluster.condition("a-job", "Complete", "AllJobsCompleted")
    assert sdk.get_job("a-job").status == "Complete"


def test_reserved_environment_is_denied_by_the_webhook(sdk: TrainerClient, cluster: Cluster) -> None:
    with pytest.raises(RuntimeError, match="Failed to create TrainJob") as raised:
        submit(sdk, cluster, env={"PET_NNODES": "3"})
    cause = raised.value.__cause__
    assert isinstance(cause, kubernetes_client.ApiException)
    assert cause.status == 403
    assert "admission webhook" in str(cause.body)
    assert "PET_NNODES" in str(cause.body)


def test_a_second_job_of_the_same_name_is_a_conflict(sdk: TrainerClient, cluster: Cluster) -> None:
    submit(sdk, cluster)
    with pytest.raises(RuntimeError) as raised:
        submit(sdk, cluster)
    assert raised.value.__cause__.status == 409  # type: ignore[union-attr]


def test_unknown_fields_are_refused_and_known_ones_pruned_on_request(
    wire: Wire, sdk: TrainerClient, cluster: Cluster
) -> None:
    custom = sdk.backend.custom_api
    where = ("trainer.kubeflow.org", "v1alpha1", NAMESPACE, "trainjobs")
    document = {"metadata": {"name": "odd"}, "spec": {"runtimeRef": {"name": cluster.runtime}, "podSpecOverrides": []}}
    with pytest.raises(kubernetes_client.ApiException, match=r"unknown field.*spec\.podSpecOverrides"):
        custom.create_namespaced_custom_object(*where, document)

    wire.pruned = {"spec.trainer.resourcesPerNode"}
    submit(sdk, cluster)
    assert "resourcesPerNode" not in cluster.job("a-job")["spec"]["trainer"]


def test_faults_are_injected_before_or_after_the_request_is_carried_out(
    wire: Wire, sdk: TrainerClient, cluster: Cluster
) -> None:
    wire.faults = [Fault("POST", "trainjobs", status=500)]
    with pytest.raises(RuntimeError) as raised:
        submit(sdk, cluster)
    assert raised.value.__cause__.status == 500  # type: ignore[union-attr]
    assert ("trainjobs", NAMESPACE, "a-job") not in wire.objects

    wire.faults = [Fault("POST", "trainjobs", carried_out=True)]
    with pytest.raises(RuntimeError, match="Failed to create TrainJob"):
        submit(sdk, cluster)
    assert ("trainjobs", NAMESPACE, "a-job") in wire.objects


def test_a_watch_delivers_changes_as_they_happen(wire: Wire, cluster: Cluster, tmp_path: Path) -> None:
    api = kubernetes_client.CoreV1Api(
        kubernetes_config.new_client_from_config(str(wire.write_kubeconfig(tmp_path / "config", NAMESPACE)))
    )
    (pod,) = cluster.start("a-job")
    seen = []
    for change in watch.Watch().stream(api.list_namespaced_pod, NAMESPACE, timeout_seconds=10):
        seen.append((change["type"], change["object"].status.phase))
        if len(seen) == 1:
            cluster.running(pod)
        if len(seen) == 2:
            break
    assert seen == [("ADDED", "Pending"), ("MODIFIED", "Running")]


def test_deleting_a_job_ends_it_at_once_and_its_pods_after_their_grace(
    wire: Wire, sdk: TrainerClient, cluster: Cluster
) -> None:
    submit(sdk, cluster)
    cluster.start("a-job", nodes=2)
    wire.grace_seconds = 0.2
    sdk.delete_job("a-job")

    with pytest.raises(RuntimeError, match="Failed to get"):
        sdk.get_job("a-job")
    assert len(wire.find("pods", NAMESPACE)) == 2
    wire.grace_seconds = 0
    time.sleep(0.25)
    assert wire.find("pods", NAMESPACE) == []
