"""Jobs go to Kubernetes as asked for, once, and are compared with what the server stored."""

from dataclasses import replace
from typing import Any

import pytest
from kubeflow.trainer import CustomTrainer
from kubeflow.trainer.options import (
    ContainerPatch,
    JobSetSpecPatch,
    JobSetTemplatePatch,
    JobSpecPatch,
    JobTemplatePatch,
    Labels,
    PodSpecPatch,
    PodTemplatePatch,
    ReplicatedJobPatch,
    RuntimePatch,
    TrainingRuntimeSpecPatch,
)
from kubernetes_submissions import LABELS, submission
from kubernetes_wire import Fault, Wire
from kubernetes_wire_cluster import NAMESPACE, Cluster
from kubernetes_wire_schema import validate

from forecast_assets.trainjob.errors import (
    AlreadySubmittedError,
    ApiUnavailableError,
    FieldsDroppedError,
    NotSubmittedError,
    RejectedError,
)
from forecast_assets.trainjob.kubernetes import KubernetesPlatform
from forecast_assets.trainjob.observation import Submission

pytest_plugins = ["kubernetes_wire_fixtures"]


def patch(claim: str = "models") -> RuntimePatch:
    """A volume more for the training container."""
    volumes = [{"name": "more", "persistentVolumeClaim": {"claimName": claim}}]
    mounts = [ContainerPatch(name="node", volume_mounts=[{"name": "more", "mountPath": "/more"}])]
    pod = PodTemplatePatch(spec=PodSpecPatch(volumes=volumes, containers=mounts, node_selector={"gpu": "a100"}))
    job = ReplicatedJobPatch(name="node", template=JobTemplatePatch(spec=JobSpecPatch(template=pod)))
    template = JobSetTemplatePatch(spec=JobSetSpecPatch(replicated_jobs=[job]))
    return RuntimePatch(training_runtime_spec=TrainingRuntimeSpecPatch(template=template))


def test_everything_asked_for_is_in_the_stored_job(platform: KubernetesPlatform, cluster: Cluster) -> None:
    in_queue = replace(platform, queue="team-a", priority="urgent")
    in_queue.submit(
        submission(
            command=["torchrun"],
            args=["-m", "trainer"],
            annotations={"note": "n"},
            deadline_seconds=3600,
            options=[patch(), Labels({"team": "a"})],
        )
    )

    job = cluster.job("a-job")
    validate("trainjobs", job)
    assert job["metadata"]["labels"] == LABELS | {
        "team": "a",
        "kueue.x-k8s.io/queue-name": "team-a",
        "kueue.x-k8s.io/priority-class": "urgent",
    }
    assert job["metadata"]["annotations"] == {"note": "n"}
    spec = job["spec"]
    assert spec["activeDeadlineSeconds"] == 3600
    assert spec["runtimeRef"]["kind"] == "TrainingRuntime"
    trainer = spec["trainer"]
    assert trainer["command"] + trainer["args"] == ["torchrun", "-m", "trainer"]
    assert trainer["numNodes"] == 2
    assert trainer["env"] == [{"name": "DAGSTER_PIPES_CONTEXT", "value": "{}"}]
    (stored_patch,) = spec["runtimePatches"]
    pod = stored_patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    assert pod["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "models"}


def test_a_function_can_be_the_trainer(platform: KubernetesPlatform, cluster: Cluster) -> None:
    platform.submit(Submission(name="a-job", trainer=CustomTrainer(func=print_hello), labels=LABELS))

    assert "print_hello()" in cluster.job("a-job")["spec"]["trainer"]["command"][-1]


def print_hello() -> None:
    import sys

    sys.stdout.write("hello")


def test_a_job_of_the_same_name_is_left_to_be_adopted(platform: KubernetesPlatform, cluster: Cluster) -> None:
    platform.submit(submission())
    first = cluster.job("a-job")

    with pytest.raises(AlreadySubmittedError, match="already exists"):
        platform.submit(submission())
    assert cluster.job("a-job") is first


@pytest.mark.usefixtures("cluster")
def test_the_webhooks_words_reach_the_reader(platform: KubernetesPlatform) -> None:
    with pytest.raises(RejectedError, match=r"TrainJob forecasting/a-job: .*403: admission webhook .*PET_NNODES"):
        platform.submit(submission(env={"PET_NNODES": "2"}))


@pytest.mark.usefixtures("cluster")
def test_a_name_that_is_no_dns_label_is_rejected(platform: KubernetesPlatform) -> None:
    with pytest.raises(RejectedError, match=r"422: .*Invalid value"):
        platform.submit(submission("A_Job"))


@pytest.mark.usefixtures("cluster")
def test_an_unknown_runtime_is_named_with_the_way_to_list_those_there_are(platform: KubernetesPlatform) -> None:
    with pytest.raises(NotSubmittedError, match=r"no training runtime 'huge' .* get trainingruntimes"):
        platform.submit(submission(runtime="huge"))


@pytest.mark.usefixtures("cluster")
def test_two_runtime_patches_are_refused_before_anything_is_sent(platform: KubernetesPlatform, wire: Wire) -> None:
    with pytest.raises(NotSubmittedError, match="several RuntimePatch options"):
        platform.submit(submission(options=[patch(), patch()]))
    assert not any(request.startswith("POST") for request in wire.requests)


@pytest.mark.usefixtures("cluster")
def test_without_a_cluster_the_error_says_how_to_name_one(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    platform = KubernetesPlatform(namespace="n", kubeconfig=str(tmp_path / "none"))
    with pytest.raises(NotSubmittedError, match=r"no cluster is configured: .*set KUBECONFIG"):
        platform.observe("a-job")


@pytest.mark.parametrize(
    ("pruned", "field"),
    [
        ("spec.activeDeadlineSeconds", "spec.activeDeadlineSeconds"),
        ("spec.runtimePatches", "spec.runtimePatches"),
        ("spec.trainer.resourcesPerNode.limits", "spec.trainer.resourcesPerNode.limits"),
    ],
)
def test_a_field_that_the_server_drops_is_an_error_and_the_job_is_deleted_again(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster, pruned: str, field: str
) -> None:
    cluster.public_config["data"]["kubeflow_trainer_version"] = "v2.1.0"
    wire.pruned = {pruned}

    with pytest.raises(FieldsDroppedError, match=rf"dropped {field};.* Trainer is v2\.1\.0, the SDK .*2\.3\.0"):
        platform.submit(submission(deadline_seconds=60, options=[patch()]))
    assert wire.find("trainjobs", NAMESPACE) == []


def test_an_older_server_is_warned_of_and_the_version_may_be_kept_secret(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.public_config["data"]["kubeflow_trainer_version"] = "v2.1.0"
    platform.submit(submission())
    assert "Kubeflow Trainer v2.1.0 is older than the SDK's API, 2.3.0" in caplog.text

    wire.faults = [Fault("GET", "kubeflow-trainer-public", status=403, times=9)]
    assert platform.server_version() is None


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "trainjobs", status=500, message="etcdserver: leader changed"),
        Fault("POST", "trainjobs", status=429, headers={"Retry-After": "0"}),
        Fault("POST", "trainjobs"),
    ],
    ids=["500", "429", "reset"],
)
def test_a_server_in_trouble_is_worth_asking_again(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster, fault: Fault
) -> None:
    wire.faults = [fault]
    with pytest.raises(ApiUnavailableError):
        platform.submit(submission())
    platform.submit(submission())
    assert cluster.job("a-job")


def test_a_job_created_while_the_answer_was_lost_is_found_at_the_next_try(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    wire.faults = [Fault("POST", "trainjobs", carried_out=True)]
    with pytest.raises(ApiUnavailableError):
        platform.submit(submission())
    with pytest.raises(AlreadySubmittedError):
        platform.submit(submission())
    assert cluster.job("a-job")["metadata"]["labels"] == LABELS


def test_an_answer_lost_does_not_hide_a_dropped_field(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    assert cluster.runtime
    wire.pruned = {"spec.activeDeadlineSeconds"}
    wire.faults = [Fault("POST", "trainjobs", carried_out=True)]
    with pytest.raises(ApiUnavailableError):
        platform.submit(submission(deadline_seconds=60))
    with pytest.raises(FieldsDroppedError, match="activeDeadlineSeconds"):
        platform.submit(submission(deadline_seconds=60))


@pytest.mark.parametrize("fault", [Fault("GET", "trainjobs/", status=429, headers={"Retry-After": "0"}, times=2),
                                   Fault("GET", "trainjobs/", times=2)], ids=["429", "reset"])  # fmt: skip
def test_a_short_trouble_while_observing_is_met_by_the_client_below(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster, fault: Fault
) -> None:
    cluster.add_job("a-job")
    wire.faults = [fault]
    assert platform.observe("a-job").phase == "pending"


@pytest.mark.parametrize("status", [401, 403])
def test_being_refused_is_not_worth_asking_again(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster, status: int
) -> None:
    cluster.add_job("a-job")
    wire.faults = [Fault("GET", "trainjobs/", status=status, message='User "dagster" cannot get resource "trainjobs"')]
    with pytest.raises(RejectedError, match='User "dagster" cannot get'):
        platform.observe("a-job")


def test_jobs_are_listed_by_label_oldest_first_over_all_pages(
    platform: KubernetesPlatform, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forecast_assets.trainjob.kubernetes_api._PAGE", 2)
    for number in range(5):
        created = f"2026-01-0{5 - number}T00:00:00Z"
        cluster.add_job(f"job-{number}", labels={"asset": "model"}, creationTimestamp=created)
    cluster.add_job("other", labels={"asset": "frame"})

    listed = platform.list_jobs({"asset": "model"})
    assert [job.name for job in listed] == ["job-4", "job-3", "job-2", "job-1", "job-0"]


def test_a_list_whose_pages_the_server_has_forgotten_is_asked_for_in_one_piece(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forecast_assets.trainjob.kubernetes_api._PAGE", 2)
    for number in range(5):
        created = f"2026-01-0{number + 1}T00:00:00Z"
        cluster.add_job(f"job-{number}", labels={"asset": "model"}, creationTimestamp=created)
    cluster.add_job("other", labels={"asset": "frame"})
    wire.faults = [Fault("GET", "continue=4", status=410, message="The provided continue parameter is too old")]

    assert [job.name for job in platform.list_jobs({"asset": "model"})] == [f"job-{number}" for number in range(5)]
    assert wire.faults[0].times == 0


def test_the_way_to_find_a_job_names_it_in_its_namespace(platform: KubernetesPlatform) -> None:
    assert platform.find("a-job")["kubectl"] == "kubectl -n forecasting describe trainjob a-job"
