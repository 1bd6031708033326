"""A job is followed to its end, however long it queued and whether or not its nodes' logs can be read meanwhile."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kubernetes_wire import Fault, Wire
from kubernetes_wire_cluster import NAMESPACE, Cluster
from kubernetes_wire_schema import Document

from forecast_assets.trainjob import Patience
from forecast_assets.trainjob.errors import ApiUnavailableError, UnschedulableError
from forecast_assets.trainjob.following import Follower
from forecast_assets.trainjob.kubernetes import KubernetesPlatform
from forecast_assets.trainjob.messages import JobMessages

pytest_plugins = ["kubernetes_wire_fixtures"]

DEAD_KUBELET = "dial tcp 10.0.0.7:10250: i/o timeout"
FOR_EVER = 10**6


class Story(logging.Handler):
    """What happens next, when the follower has said a certain thing; what it said is kept."""

    def __init__(self, then: dict[str, Callable[[], object]]) -> None:
        super().__init__()
        self._then = then
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        for words in [words for words in self._then if words in record.getMessage()]:
            self._then.pop(words)()


def follower(
    platform: KubernetesPlatform,
    story: Story,
    *,
    messages: Path | None = None,
    start_seconds: float = 60.0,
    api_seconds: float = 0.3,
    echo: Callable[[str], None] = lambda _: None,
) -> Follower:
    """Follows "a-job"."""
    log = logging.Logger("a-job")
    log.addHandler(story)
    return Follower(
        platform,
        "a-job",
        JobMessages(messages),
        patience=Patience(start_seconds=start_seconds, api_seconds=api_seconds),
        log=log,
        echo=echo,
        on_message=lambda _: None,
    )


def no_log_of(wire: Wire, pod: Document, times: int = FOR_EVER) -> None:
    """The API server does not reach the kubelet that has the pod's log."""
    path = f"{pod['metadata']['name']}/log"
    wire.faults.append(Fault("GET", path, status=500, message=DEAD_KUBELET, times=times))


def complete(cluster: Cluster, *pods: Document) -> None:
    for pod in pods:
        cluster.terminated(pod)
    cluster.condition("a-job", "Complete", "AllJobsCompleted")


def test_the_time_in_a_queue_is_not_counted_as_time_to_start(platform: KubernetesPlatform, cluster: Cluster) -> None:
    cluster.add_job("a-job")
    cluster.hold("a-job")
    pods: list[Document] = []

    def admit() -> None:
        with cluster.wire.lock:
            pods.extend(cluster.start("a-job"))
            cluster.unschedulable(pods[0], "0/1 nodes are available: its machine is being made.")
            cluster.admit("a-job")

    def run() -> None:
        cluster.running(pods[0])
        complete(cluster, pods[0])

    queue = threading.Timer(0.6, admit)
    story = Story({"(Suspended": queue.start, "its machine is being made": run})

    assert follower(platform, story, start_seconds=0.3).follow().phase == "complete"


def test_a_job_that_left_the_queue_has_its_full_time_to_start_and_no_more(
    platform: KubernetesPlatform, cluster: Cluster
) -> None:
    cluster.add_job("a-job")
    (pod,) = cluster.start("a-job")
    cluster.unschedulable(pod, "0/1 nodes are available: 1 Insufficient cpu.")
    cluster.hold("a-job")
    admitted: list[float] = []

    def admit() -> None:
        admitted.append(time.monotonic())
        cluster.admit("a-job")

    story = Story({"(Suspended": threading.Timer(0.6, admit).start})

    with pytest.raises(UnschedulableError, match=r"not started after .* s: 0/1 nodes .* Insufficient cpu"):
        follower(platform, story, start_seconds=0.3).follow()
    assert time.monotonic() - admitted[0] >= 0.3


def test_a_lost_machine_is_the_reason_though_its_log_cannot_be_read_for_longer_than_the_patience(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    cluster.add_job("a-job", nodes=2)
    first, second = cluster.start("a-job", nodes=2)
    cluster.running(first).write("node 0 waits for node 1")
    cluster.running(second)

    def die() -> None:
        no_log_of(wire, second)
        cluster.silence_machine(second)

    story = Story({"a-job is running": die})
    following = follower(replace(platform, node_lost_seconds=2.0), story, api_seconds=0.3)
    job = following.follow()

    assert (job.phase, job.reason) == ("failed", "NodeLost")
    assert list(following.logs[0]) == ["node 0 waits for node 1"]
    assert [said for said in story.said if DEAD_KUBELET in said] != []


def test_a_log_that_cannot_be_read_for_a_while_stops_nobody_and_is_read_on_later(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    cluster.add_job("a-job", nodes=2)
    first, second = cluster.start("a-job", nodes=2)
    logs = [cluster.running(first), cluster.running(second)]

    def speak() -> None:
        wire.faults.clear()
        for node, log in enumerate(logs):
            log.write(f"node {node}")
        complete(cluster, first, second)

    no_log_of(wire, second)
    story = Story({"log of node 1": threading.Timer(0.6, speak).start})
    following = follower(platform, story, api_seconds=0.3)
    job = following.follow()

    assert job.phase == "complete"
    assert {node: list(lines) for node, lines in following.logs.items()} == {0: ["node 0"], 1: ["node 1"]}


def test_the_end_of_a_log_is_asked_for_again_while_the_patience_lasts(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    cluster.add_job("a-job")
    (pod,) = cluster.start("a-job")
    cluster.running(pod).write("the last words")
    complete(cluster, pod)
    no_log_of(wire, pod, times=3)
    following = follower(platform, Story({}), api_seconds=30)
    following.follow()

    assert list(following.logs[0]) == ["the last words"]


def test_a_job_has_ended_as_it_has_though_a_log_of_no_consequence_is_not_to_be_had(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster, tmp_path: Path
) -> None:
    cluster.add_job("a-job")
    (pod,) = cluster.start("a-job")
    cluster.running(pod)
    complete(cluster, pod)
    no_log_of(wire, pod)
    story = Story({})

    assert follower(platform, story, messages=tmp_path / "messages.jsonl").follow().phase == "complete"
    assert f"could not be read to its end: the Kubernetes API answered 500: {DEAD_KUBELET}" in story.said[-1]


def test_a_job_whose_result_is_in_a_log_that_is_not_to_be_had_is_left_to_the_next_call(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    cluster.add_job("a-job")
    (pod,) = cluster.start("a-job")
    cluster.running(pod)
    complete(cluster, pod)
    no_log_of(wire, pod)

    with pytest.raises(ApiUnavailableError, match="i/o timeout"):
        follower(platform, Story({}), messages=None).follow()
    assert cluster.job("a-job")["metadata"]["namespace"] == NAMESPACE


def test_a_job_has_ended_well_once_its_messages_are_read_though_its_log_is_not_to_be_had_any_more(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    cluster.add_job("a-job")
    (pod,) = cluster.start("a-job")
    log = cluster.running(pod)
    log.write('{"__dagster_pipes_version": "0.1", "method": "closed", "params": {}}')
    log.write("the last words")

    def lose_machine(_line: str) -> None:
        no_log_of(wire, pod)
        complete(cluster, pod)

    story = Story({})
    began = time.monotonic()
    job = follower(platform, story, messages=None, api_seconds=30, echo=lose_machine).follow()

    assert job.phase == "complete"
    assert time.monotonic() - began < 10
    assert "could not be read to its end" in story.said[-1]
