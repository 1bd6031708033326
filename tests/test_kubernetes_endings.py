"""Jobs are deleted or given up with their pods, and only those that are meant."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from kubernetes_submissions import submission
from kubernetes_wire import Wire
from kubernetes_wire_cluster import NAMESPACE, Cluster

from forecast_assets.trainjob.errors import (
    AlreadySubmittedError,
    TrainJobError,
)
from forecast_assets.trainjob.kubernetes import KubernetesPlatform
from forecast_assets.trainjob.observation import OWNER_LABELS, VERDICT_ANNOTATION, JobObservation
from forecast_assets.trainjob.retention import Retention

pytest_plugins = ["kubernetes_wire_fixtures"]


def delete_while_its_pod_ends(platform: KubernetesPlatform, wire: Wire, cluster: Cluster, *, seconds: float) -> None:
    """The job "a-job" is gone, and its pod takes so long to end."""
    platform.submit(submission())
    cluster.start("a-job")
    wire.grace_seconds = seconds
    wire.delete_job(NAMESPACE, "a-job")


def test_deleting_returns_when_the_last_pod_is_gone(platform: KubernetesPlatform, wire: Wire, cluster: Cluster) -> None:
    platform.submit(submission())
    for pod in cluster.start("a-job", nodes=2):
        cluster.running(pod)
    wire.grace_seconds = 0.3

    began = time.monotonic()
    platform.delete("a-job")
    assert time.monotonic() - began >= 0.3
    assert wire.find("pods", NAMESPACE) == []
    platform.delete("a-job")


def test_a_job_waits_for_the_pods_of_a_deleted_one_of_its_name(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    delete_while_its_pod_ends(platform, wire, cluster, seconds=0.3)

    submitting = threading.Thread(target=platform.submit, args=(submission(),))
    submitting.start()
    time.sleep(0.1)
    assert wire.find("trainjobs", NAMESPACE) == []
    submitting.join()
    assert wire.find("pods", NAMESPACE) == []
    assert cluster.job("a-job")


def test_of_two_that_clean_up_the_second_leaves_the_job_alone_that_has_been_started_anew(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    cluster.add_job("a-job", labels=OWNER_LABELS)
    cluster.condition("a-job", "Complete", "AllJobsCompleted")

    class Overtaken(KubernetesPlatform):
        def list_jobs(self, labels: Mapping[str, str]) -> Sequence[JobObservation]:
            seen = super().list_jobs(labels)
            wire.delete_job(NAMESPACE, "a-job")
            cluster.add_job("a-job", labels=OWNER_LABELS)
            (pod,) = cluster.start("a-job")
            cluster.running(pod)
            return seen

    overtaken = Overtaken(namespace=NAMESPACE, kubeconfig=platform.kubeconfig, delete_seconds=1)
    Retention(keep=timedelta(0)).clean_up(overtaken, None)

    assert platform.observe("a-job").phase == "running"


def test_a_job_that_another_starts_while_we_wait_for_its_forerunners_pods_is_left_to_be_adopted(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    delete_while_its_pod_ends(platform, wire, cluster, seconds=60)

    threading.Timer(0.2, cluster.add_job, args=("a-job",)).start()
    with pytest.raises(AlreadySubmittedError):
        platform.submit(submission())


def test_pods_that_never_end_are_named_unless_their_machine_is_lost(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    platform.submit(submission())
    (pod,) = cluster.start("a-job")
    cluster.running(pod)
    wire.grace_seconds = 60
    impatient = replace(platform, delete_seconds=0.2)
    with pytest.raises(TrainJobError, match=f"has not ended; its pods: {pod['metadata']['name']}"):
        impatient.delete("a-job")

    cluster.lose_machine(pod)
    impatient.delete("a-job")


def test_a_verdict_is_stored_with_the_job(platform: KubernetesPlatform, cluster: Cluster) -> None:
    platform.submit(submission(annotations={"note": "n"}))
    cluster.condition("a-job", "Complete", "AllJobsCompleted")
    platform.conclude("a-job", '{"kind": "failed"}')
    platform.conclude("gone-job", "{}")

    assert cluster.job("a-job")["metadata"]["annotations"] == {"note": "n", VERDICT_ANNOTATION: '{"kind": "failed"}'}
    assert "suspend" not in cluster.job("a-job")["spec"]
    assert platform.observe("a-job").annotations[VERDICT_ANNOTATION] == '{"kind": "failed"}'


def test_a_job_given_up_is_stopped_so_that_its_successor_meets_no_pod_of_it(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    platform.submit(submission())
    for pod in cluster.start("a-job", nodes=2):
        cluster.running(pod)
    wire.grace_seconds = 0.2
    platform.conclude("a-job", '{"kind": "out_of_memory"}')

    assert cluster.job("a-job")["spec"]["suspend"] is True
    assert wire.find("pods", NAMESPACE) == []
    job = platform.observe("a-job")
    assert (job.phase, job.reason) == ("failed", "Stopped")
