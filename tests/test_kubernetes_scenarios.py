"""Jobs from submission to end: on the fake cluster, or with `make test-cluster` on the one that KUBECONFIG points at.

    TEST_CLUSTER_NAMESPACE   run on a real cluster, in this namespace (which is created if it may be)
    TEST_CLUSTER_IMAGE       an image with Python and a shell, by default python:3.12-slim
    TEST_CLUSTER_SECONDS     how long pods may take to start there, by default 300

A real cluster needs Kubeflow Trainer; what else it lacks is skipped with the reason.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow.trainer import CustomTrainerContainer
from kubernetes import client as kubernetes_client
from kubernetes_wire import Wire
from kubernetes_wire_cluster import NAMESPACE, RUNTIME_FILE, Cluster
from kubernetes_wire_kubelet import Kubelet

from forecast_assets.trainjob.errors import AlreadySubmittedError, RejectedError
from forecast_assets.trainjob.kubernetes import KubernetesPlatform
from forecast_assets.trainjob.observation import JobObservation, Submission

REAL = os.environ.get("TEST_CLUSTER_NAMESPACE")
IMAGE = os.environ.get("TEST_CLUSTER_IMAGE", "python:3.12-slim")
START_SECONDS = float(os.environ.get("TEST_CLUSTER_SECONDS", "300")) if REAL else 20.0
RUNTIME = "trainjob-client-test"


@dataclass
class Place:
    """A cluster under test. ``submit`` names its jobs so that they are deleted afterwards."""

    platform: KubernetesPlatform
    names: list[str]

    def submit(self, script: str, **kwargs: Any) -> str:
        name = kwargs.pop("name", None) or f"test-{uuid.uuid4().hex[:10]}"
        self.names.append(name)
        options = {key: kwargs.pop(key) for key in ("deadline_seconds", "labels") if key in kwargs}
        resources = kwargs.pop("resources_per_node", {"cpu": 1, "memory": "128Mi"})
        trainer = CustomTrainerContainer(**{"image": IMAGE, "resources_per_node": resources, **kwargs})
        command = ["python", "-u", "-c", script]
        self.platform.submit(Submission(name=name, trainer=trainer, runtime=RUNTIME, command=command, **options))
        return name

    def wait(self, name: str, until: Callable[[JobObservation], bool]) -> JobObservation:
        deadline = time.monotonic() + START_SECONDS
        while not until(job := self.platform.observe(name)):
            assert time.monotonic() < deadline, f"waited in vain; last seen: {job}"
            time.sleep(self.platform.poll_seconds)
        return job


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesPlatform]:
    if REAL:
        platform = KubernetesPlatform(namespace=REAL, poll_seconds=1)
        _prepare(platform)
        yield platform
        return
    wire = Wire()
    cluster = Cluster(wire)
    wire.put("trainingruntimes", _runtime())
    kubelet = Kubelet(wire, cluster)
    kubeconfig = wire.write_kubeconfig(tmp_path_factory.mktemp("wire") / "kubeconfig", NAMESPACE)
    yield KubernetesPlatform(namespace=NAMESPACE, kubeconfig=str(kubeconfig), poll_seconds=0.05)
    kubelet.close()
    wire.close()


@pytest.fixture
def place(platform: KubernetesPlatform) -> Iterator[Place]:
    place = Place(platform, [])
    yield place
    for name in place.names:
        platform.delete(name)


def _runtime() -> dict[str, Any]:
    """Our runtime without what a test has not: Secrets, the shared volume, the trainer's account."""
    runtime: dict[str, Any] = yaml.safe_load(RUNTIME_FILE.read_text())
    runtime["metadata"] |= {"name": RUNTIME, "namespace": REAL or NAMESPACE}
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    del pod["serviceAccountName"]
    pod["terminationGracePeriodSeconds"] = 5
    pod["securityContext"]["runAsUser"] = 1001
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "shared"]
    container = pod["containers"][0]
    container["env"] = [variable for variable in container["env"] if "valueFrom" not in variable]
    container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != "shared"]
    return runtime


def _prepare(platform: KubernetesPlatform) -> None:
    api = platform.trainer_client.backend
    where = ("trainer.kubeflow.org", "v1alpha1", platform.namespace, "trainingruntimes")
    try:
        namespace = {"metadata": {"name": platform.namespace}}
        api.core_api.create_namespace(namespace)
    except kubernetes_client.ApiException as error:
        if error.status not in (403, 409):
            raise
    try:
        api.custom_api.create_namespaced_custom_object(*where, _runtime())
    except kubernetes_client.ApiException as error:
        if error.status == 404:
            pytest.skip("the cluster has no Kubeflow Trainer (trainer.kubeflow.org/v1alpha1)")
        if error.status == 403:
            pytest.skip(f"may not create a TrainingRuntime in {platform.namespace}: {error.body}")
        if error.status != 409:
            raise


def lines_of(platform: KubernetesPlatform, name: str, node: int) -> list[str]:
    return list(platform.read_log(name, node).lines)


def test_a_job_of_two_nodes_runs_and_each_nodes_log_is_read(place: Place) -> None:
    name = place.submit("import os; print('node', os.environ['PET_NODE_RANK'])", num_nodes=2)
    job = place.wait(name, lambda job: job.ended)
    assert (job.phase, [node.exit_code for node in job.nodes]) == ("complete", [0, 0])
    assert lines_of(place.platform, name, 0) == ["node 0"]
    assert lines_of(place.platform, name, 1) == ["node 1"]


def test_logs_are_read_while_the_job_runs_and_read_on_by_another_process(place: Place, tmp_path: Path) -> None:
    name = place.submit("import time\nfor n in range(12): print(n); time.sleep(0.1)")
    lines: list[str] = []
    position = ""
    reads = 0
    while not place.platform.observe(name).ended or reads == 0:
        (tmp_path / "position").write_text(position)
        chunk = place.platform.read_log(name, 0, (tmp_path / "position").read_text())
        reads += bool(chunk.lines)
        lines += chunk.lines
        position = chunk.position
        time.sleep(0.2)
    lines += place.platform.read_log(name, 0, position).lines
    assert lines == [str(n) for n in range(12)]
    assert reads > 1


def test_a_failing_node_ends_the_job_and_its_log_and_status_remain(place: Place) -> None:
    name = place.submit(
        "import os, sys, time\nif os.environ['PET_NODE_RANK'] == '1': sys.exit('no more patience')\ntime.sleep(3)",
        num_nodes=2,
    )
    job = place.wait(name, lambda job: job.ended)
    assert job.phase == "failed"
    assert next(node for node in job.nodes if node.index == 1).exit_code == 1
    assert lines_of(place.platform, name, 1) == ["no more patience"]


def test_a_lack_of_memory_is_told_from_other_failures(place: Place) -> None:
    if not REAL:
        pytest.skip("processes of this machine have no limit of memory; see test_kubernetes_observation.py")
    name = place.submit("x = bytearray(10**9); print(len(x))")
    job = place.wait(name, lambda job: job.ended)
    assert (job.phase, job.reason) == ("failed", "OOMKilled")


def test_what_no_machine_has_room_for_is_pending_with_the_schedulers_words(place: Place) -> None:
    name = place.submit("pass", resources_per_node={"cpu": 5000, "memory": "128Mi"})
    job = place.wait(name, lambda job: bool(job.reason))
    assert (job.phase, job.reason) == ("pending", "Unschedulable")
    assert "nsufficient cpu" in job.message


def test_an_image_that_is_not_there_is_named(place: Place) -> None:
    image = "localhost:1/no-such-image:0"
    name = place.submit("pass", image=image)
    job = place.wait(name, lambda job: job.reason in ("ErrImagePull", "ImagePullBackOff"))
    assert job.phase == "pending"
    assert image in job.message


def test_a_passed_deadline_is_the_reason(place: Place) -> None:
    name = place.submit("import time; time.sleep(600)", deadline_seconds=1 if not REAL else 30)
    job = place.wait(name, lambda job: job.ended)
    assert (job.phase, job.reason) == ("failed", "DeadlineExceeded")


def test_a_name_taken_is_a_conflict_and_the_first_job_goes_on(place: Place) -> None:
    name = place.submit("import time; time.sleep(600)")
    with pytest.raises(AlreadySubmittedError):
        place.submit("pass", name=name)
    assert place.wait(name, lambda job: job.phase == "running").nodes[0].phase == "running"


def test_after_deletion_no_pod_is_left_and_the_name_is_free(place: Place) -> None:
    name = place.submit("import time; time.sleep(600)")
    place.wait(name, lambda job: job.phase == "running")
    place.platform.delete(name)
    assert place.platform.observe(name).phase == "gone"
    place.submit("print('again')", name=name)
    place.wait(name, lambda job: job.phase == "complete")
    assert lines_of(place.platform, name, 0) == ["again"]


def test_only_the_job_that_is_meant_is_deleted_not_another_of_its_name(place: Place) -> None:
    name = place.submit("import time; time.sleep(600)")
    place.platform.delete(name, str(uuid.uuid4()))
    uid = place.platform.observe(name).uid
    place.platform.delete(name, uid)
    assert (len(uid), place.platform.observe(name).phase) == (36, "gone")


def test_a_reserved_variable_is_refused_in_the_webhooks_words(place: Place) -> None:
    with pytest.raises(RejectedError, match="PET_NNODES"):
        place.submit("pass", env={"PET_NNODES": "7"})


def test_jobs_are_found_by_label_and_carry_their_verdict(place: Place) -> None:
    mark = uuid.uuid4().hex[:8]
    name = place.submit("pass", labels={"dagster.trainjob/run-id": mark})
    place.wait(name, lambda job: job.phase == "complete")
    place.platform.conclude(name, '{"kind": "complete"}')
    (job,) = place.platform.list_jobs({"dagster.trainjob/run-id": mark})
    assert job.name == name
    assert '{"kind": "complete"}' in job.annotations.values()


def test_the_servers_version_is_known(place: Place) -> None:
    version = place.platform.server_version()
    if version is None:
        pytest.skip("the cluster does not say (ConfigMap kubeflow-trainer-public in KUBEFLOW_SYSTEM_NAMESPACE)")
    assert version.removeprefix("v").split(".")[0].isdigit()
