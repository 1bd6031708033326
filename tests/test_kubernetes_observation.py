"""What is observed of a job on Kubernetes is what its pods, events, Job and JobSet say, not only its own conditions."""

from datetime import UTC, datetime, timedelta

import pytest
from kubernetes_wire import Wire
from kubernetes_wire_cluster import NAMESPACE, Cluster

from forecast_assets.trainjob.kubernetes import KubernetesPlatform

pytest_plugins = ["kubernetes_wire_fixtures"]


def ago(**duration: float) -> str:
    return (datetime.now(UTC) - timedelta(**duration)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.fixture(autouse=True)
def _a_job_of_two_nodes(cluster: Cluster) -> None:
    cluster.add_job("a-job", nodes=2, labels={"run": "r1"})


def test_a_job_runs_and_completes(platform: KubernetesPlatform, cluster: Cluster) -> None:
    assert platform.observe("a-job").phase == "pending"
    pods = cluster.start("a-job", nodes=2)
    for pod in pods:
        cluster.running(pod)
    running = platform.observe("a-job")
    assert (running.phase, running.reason, running.labels) == ("running", "", {"run": "r1"})
    assert [(node.index, node.phase, node.restart) for node in running.nodes] == [(0, "running", 0), (1, "running", 0)]
    assert running.nodes[1].place == pods[1]["metadata"]["name"]

    for pod in pods:
        cluster.terminated(pod)
    assert platform.observe("a-job").phase == "running"
    cluster.condition("a-job", "Complete", "AllJobsCompleted", "jobset completed successfully")
    done = platform.observe("a-job")
    assert (done.phase, done.reason) == ("complete", "AllJobsCompleted")
    assert done.created_at is not None
    assert done.ended_at is not None
    assert [(node.phase, node.exit_code) for node in done.nodes] == [("succeeded", 0), ("succeeded", 0)]


def test_a_job_deleted_under_our_feet_is_gone(platform: KubernetesPlatform, wire: Wire, cluster: Cluster) -> None:
    cluster.start("a-job", nodes=2)
    assert platform.observe("a-job").phase == "pending"
    wire.delete_job(NAMESPACE, "a-job")
    assert platform.observe("a-job").phase == "gone"
    assert platform.read_log("a-job", 0).lines == []


def test_a_job_without_room_says_what_the_scheduler_says(platform: KubernetesPlatform, cluster: Cluster) -> None:
    first, second = cluster.start("a-job", nodes=2)
    cluster.running(first)
    cluster.unschedulable(second, "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")
    job = platform.observe("a-job")
    assert (job.phase, job.reason) == ("pending", "Unschedulable")
    assert "3 Insufficient nvidia.com/gpu" in job.message
    assert [node.phase for node in job.nodes] == ["running", "pending"]


@pytest.mark.parametrize(
    "reason", ["ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError"]
)
def test_a_container_that_cannot_start_says_why(platform: KubernetesPlatform, cluster: Cluster, reason: str) -> None:
    first, second = cluster.start("a-job", nodes=2)
    cluster.waiting(first, "ContainerCreating")
    cluster.waiting(second, reason, "the server's words")
    assert platform.observe("a-job").reason in ("ContainerCreating", reason)
    cluster.running(first)
    job = platform.observe("a-job")
    assert (job.phase, job.reason, job.message) == ("pending", reason, "the server's words")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            'pods "a-job-node-0-0-x" is forbidden: exceeded quota: gpus, requested: limits.nvidia.com/gpu=1',
            "QuotaExceeded",
        ),
        ('pods "a-job-node-0-0-x" is forbidden: violates PodSecurity "restricted:latest"', "FailedCreate"),
    ],
)
def test_pods_that_may_not_be_created_say_why(
    platform: KubernetesPlatform, cluster: Cluster, message: str, reason: str
) -> None:
    cluster.event("Job", "a-job-node-0", "FailedCreate", f"Error creating: {message}")
    job = platform.observe("a-job")
    assert (job.phase, job.reason, job.message) == ("pending", reason, f"Error creating: {message}")


def test_a_job_that_kueue_holds_back_says_what_it_waits_for(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    job = cluster.job("a-job")
    job["spec"]["suspend"] = True
    cluster.condition("a-job", "Suspended", "Suspended", "TrainJob is suspended")
    assert platform.observe("a-job").message == "TrainJob is suspended"

    reserved = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "lastTransitionTime": ago()}
    message = "couldn't assign flavors to pod set node: insufficient unused quota for nvidia.com/gpu"
    owner = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "name": "a-job"}
    metadata = {"name": "trainjob-a-job-1a2b3", "namespace": NAMESPACE}
    metadata["ownerReferences"] = [owner | {"uid": job["metadata"]["uid"]}]  # type: ignore[assignment]
    wire.put("workloads", {"metadata": metadata, "status": {"conditions": [reserved | {"message": message}]}})
    held = platform.observe("a-job")
    assert (held.phase, held.reason, held.message) == ("pending", "Suspended", message)


def test_a_pod_replaced_by_the_job_controller_is_seen_and_the_newest_counts(
    platform: KubernetesPlatform, cluster: Cluster
) -> None:
    first, _ = cluster.start("a-job", nodes=2)
    first["metadata"]["creationTimestamp"] = ago(minutes=5)
    cluster.terminated(first, exit_code=1)
    second = cluster.pod("a-job", index=0)
    cluster.running(second)
    job = platform.observe("a-job")
    assert (job.nodes[0].place, job.nodes[0].restart) == (second["metadata"]["name"], 1)
    assert (job.nodes[0].phase, job.phase) == ("running", "pending")


def test_a_node_that_fails_a_second_time_is_not_waited_out(platform: KubernetesPlatform, cluster: Cluster) -> None:
    first, _ = cluster.start("a-job", nodes=2)
    first["metadata"]["creationTimestamp"] = ago(minutes=5)
    cluster.terminated(first, exit_code=1)
    cluster.terminated(cluster.pod("a-job", index=0), exit_code=1)
    job = platform.observe("a-job")
    assert (job.phase, job.reason) == ("failed", "Error")
    assert job.nodes[0].exit_code == 1


def test_a_container_started_again_and_again_is_not_waited_out(platform: KubernetesPlatform, cluster: Cluster) -> None:
    pod, _ = cluster.start("a-job", nodes=2)
    cluster.crash_looping(pod, exit_code=3, restarts=1)
    assert platform.observe("a-job").phase == "pending"
    cluster.crash_looping(pod, exit_code=3, restarts=2)
    job = platform.observe("a-job")
    assert (job.phase, job.nodes[0].restart, job.nodes[0].reason) == ("failed", 2, "CrashLoopBackOff")


def test_a_lack_of_memory_is_final_at_once_though_the_pod_is_replaced(
    platform: KubernetesPlatform, cluster: Cluster
) -> None:
    first, second = cluster.start("a-job", nodes=2)
    first["metadata"]["creationTimestamp"] = ago(minutes=1)
    cluster.running(second)
    cluster.terminated(first, exit_code=137, reason="OOMKilled")
    cluster.running(cluster.pod("a-job", index=0))
    job = platform.observe("a-job")
    assert (job.phase, job.reason) == ("failed", "OOMKilled")


def test_the_job_fails_for_the_reason_of_the_pod_that_failed_not_of_those_that_followed(
    platform: KubernetesPlatform, cluster: Cluster
) -> None:
    first, second = cluster.start("a-job", nodes=2)
    cluster.terminated(first, exit_code=1)
    cluster.terminated(second, exit_code=137, reason="OOMKilled")
    cluster.condition("a-job", "Failed", "FailedJobs", "jobset failed due to one or more job failures")
    job = platform.observe("a-job")
    assert (job.phase, job.reason) == ("failed", "OOMKilled")
    assert [node.exit_code for node in job.nodes] == [1, 137]


def test_a_passed_deadline_is_seen_though_all_else_is_deleted(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    cluster.start("a-job", nodes=2)
    wire.delete_children(NAMESPACE, "a-job")
    cluster.condition("a-job", "Failed", "DeadlineExceeded", "TrainJob exceeded its active deadline")
    job = platform.observe("a-job")
    assert (job.phase, job.reason, job.nodes) == ("failed", "DeadlineExceeded", ())


def test_a_silent_machine_is_given_time_and_then_counts_as_lost(platform: KubernetesPlatform, cluster: Cluster) -> None:
    first, second = cluster.start("a-job", nodes=2)
    cluster.running(first)
    cluster.running(second)
    cluster.silence_machine(second, since=ago(seconds=30))
    assert platform.observe("a-job").phase == "running"

    cluster.silence_machine(second, since=ago(minutes=3))
    job = platform.observe("a-job")
    assert (job.phase, job.reason) == ("failed", "NodeLost")
    assert "has not answered for 18" in job.message
    assert job.nodes[1].phase == "unknown"


def test_a_pod_given_up_by_the_taint_manager_is_lost(platform: KubernetesPlatform, cluster: Cluster) -> None:
    first, second = cluster.start("a-job", nodes=2)
    cluster.running(first)
    cluster.running(second)
    cluster.lose_machine(second)
    job = platform.observe("a-job")
    assert (job.phase, job.reason) == ("failed", "NodeLost")
    assert "Taint manager" in job.message


def test_a_pod_that_is_unready_for_its_own_reasons_is_not_lost(platform: KubernetesPlatform, cluster: Cluster) -> None:
    first, second = cluster.start("a-job", nodes=2)
    cluster.running(first)
    cluster.running(second, ready=False)
    assert platform.observe("a-job").phase == "running"


def test_an_evicted_pod_is_told_from_a_failed_one(platform: KubernetesPlatform, cluster: Cluster) -> None:
    first, second = cluster.start("a-job", nodes=2)
    cluster.running(second)
    cluster.terminated(first, exit_code=143)
    first["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
    assert platform.observe("a-job").nodes[0].reason == "Evicted"


def test_a_restart_by_jobset_is_counted_and_the_job_goes_on(platform: KubernetesPlatform, cluster: Cluster) -> None:
    (first, second) = cluster.start("a-job", nodes=2)
    cluster.restarts_allowed("a-job", 2)
    cluster.running(second)
    cluster.terminated(first, exit_code=1)
    cluster.job_failed("a-job", "BackoffLimitExceeded")
    assert platform.observe("a-job").phase == "running"

    for pod in cluster.restart("a-job", nodes=2):
        cluster.running(pod)
    job = platform.observe("a-job")
    assert job.phase == "running"
    assert [node.restart for node in job.nodes] == [1, 1]


@pytest.mark.parametrize(("reason", "phase"), [("BackoffLimitExceeded", "running"), ("PodFailurePolicy", "failed")])
def test_whether_jobset_will_start_again_is_read_from_its_rules(
    platform: KubernetesPlatform, cluster: Cluster, reason: str, phase: str
) -> None:
    first, second = cluster.start("a-job", nodes=2)
    rule = {"name": "no-retry", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
    cluster.restarts_allowed("a-job", 1, [rule])
    cluster.running(second)
    cluster.terminated(first, exit_code=1)
    cluster.job_failed("a-job", reason)
    assert platform.observe("a-job").phase == phase


def test_a_failed_pod_is_final_when_no_restart_is_left(platform: KubernetesPlatform, cluster: Cluster) -> None:
    first, second = cluster.start("a-job", nodes=2)
    cluster.restarts_allowed("a-job", 0)
    cluster.running(second)
    cluster.terminated(first, exit_code=1)
    job = platform.observe("a-job")
    assert (job.phase, job.reason) == ("failed", "Error")


def test_events_of_everything_that_belongs_to_the_job_are_told_in_order(
    platform: KubernetesPlatform, cluster: Cluster
) -> None:
    (pod, _) = cluster.start("a-job", nodes=2)
    place = pod["metadata"]["name"]
    cluster.event("Pod", place, "Pulled", "third", firstTimestamp=ago(minutes=9), lastTimestamp=ago(minutes=3))
    cluster.event("Pod", place, "FailedScheduling", "second", eventTime=ago(minutes=4))
    series = {"count": 7, "lastObservedTime": ago(minutes=2)}
    cluster.event("Job", "a-job-node-0", "BackoffLimitExceeded", "fourth", eventTime=ago(minutes=8), series=series)
    cluster.event("JobSet", "a-job", "Restarting", "fifth", lastTimestamp=ago(minutes=1))
    cluster.event("Pod", "a-job-node-0-1-gone5", "Killing", "first", firstTimestamp=ago(minutes=5))
    cluster.event("Pod", "a-job-two-node-0-1-abcde", "Killing", "another job's")
    cluster.event("TrainJob", "a-job2", "Created", "another job's")

    events = platform.observe("a-job").events
    assert [event.message for event in events] == ["first", "second", "third", "fourth", "fifth"]
    assert events[1].subject == place
    assert events[1].reason == "FailedScheduling"
