"""Logs on Kubernetes are read on without loss or repetition, across polls, processes, broken connections and pods."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kubernetes_wire import Fault, Wire
from kubernetes_wire_cluster import Cluster
from kubernetes_wire_logs import WireLog

from forecast_assets.trainjob.errors import ApiUnavailableError
from forecast_assets.trainjob.kubernetes import KubernetesPlatform
from forecast_assets.trainjob.kubernetes_log import LogPosition

pytest_plugins = ["kubernetes_wire_fixtures"]

SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND


@pytest.fixture(autouse=True)
def _a_job(cluster: Cluster) -> None:
    cluster.add_job("a-job", nodes=2)


def read_on(platform: KubernetesPlatform, node: int = 0, position: str = "") -> tuple[list[str], str]:
    chunk = platform.read_log("a-job", node, position)
    return list(chunk.lines), chunk.position


def test_a_pod_that_has_not_started_has_no_lines_yet(platform: KubernetesPlatform, cluster: Cluster) -> None:
    (pod,) = cluster.start("a-job")
    lines, position = read_on(platform)
    assert lines == []
    cluster.running(pod).write("hello")
    assert read_on(platform, position=position)[0] == ["hello"]


def test_each_node_has_a_log_of_its_own_that_is_read_line_by_line(
    platform: KubernetesPlatform, cluster: Cluster
) -> None:
    logs = [cluster.running(pod) for pod in cluster.start("a-job", nodes=2)]
    positions = ["", ""]
    for epoch in range(4):
        for node, log in enumerate(logs):
            log.write(f"node {node} epoch {epoch}", at=START + epoch * SECOND)
            lines, positions[node] = read_on(platform, node, positions[node])
            assert lines == [f"node {node} epoch {epoch}"]
    assert read_on(platform, 0)[0] == [f"node 0 epoch {epoch}" for epoch in range(4)]


def test_a_line_is_delivered_when_it_is_whole_or_its_container_has_ended(
    platform: KubernetesPlatform, cluster: Cluster
) -> None:
    (pod,) = cluster.start("a-job")
    log = cluster.running(pod)
    log.write("epoch", at=START, newline=False)
    lines, position = read_on(platform)
    assert lines == []
    log.write(" 1", at=START + 1)
    lines, position = read_on(platform, position=position)
    assert lines == ["epoch 1"]
    log.write("Killed", at=START + 2, newline=False)
    cluster.terminated(pod, exit_code=137)
    assert read_on(platform, position=position)[0] == ["Killed"]


def test_noise_of_all_kinds_arrives_as_text(platform: KubernetesPlatform, cluster: Cluster) -> None:
    (pod,) = cluster.start("a-job")
    log = cluster.running(pod)
    long = "x" * 10_000_000
    for line in (
        b"\xff\xfe\x00binary",
        long.encode(),
        b"",
        b"dos\r",
        "übung".encode(),
        b"2026-01-01T00:00:00Z no stamp",
    ):
        log.write(line)
    lines, _ = read_on(platform)
    assert lines == ["\ufffd\ufffd\x00binary", long, "", "dos", "übung", "2026-01-01T00:00:00Z no stamp"]


def test_a_broken_connection_costs_a_poll_and_no_line(platform: KubernetesPlatform, cluster: Cluster) -> None:
    (pod,) = cluster.start("a-job")
    log = cluster.running(pod)
    for number in range(100):
        log.write(f"line {number}", at=START + number * SECOND // 10)
    log.cuts = [1000, 70, 3]
    read: list[str] = []
    position = ""
    for _ in range(8):
        try:
            lines, position = read_on(platform, position=position)
        except ApiUnavailableError:
            continue
        read += lines
    assert read == [f"line {number}" for number in range(100)]


def test_a_replaced_pods_log_is_read_to_its_end_before_its_successors(
    platform: KubernetesPlatform, cluster: Cluster
) -> None:
    (first,) = cluster.start("a-job")
    first["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    log = cluster.running(first)
    log.write("first, early")
    lines, position = read_on(platform)
    log.write("first, late")
    cluster.terminated(first, exit_code=1)
    cluster.running(cluster.pod("a-job", index=0)).write("second")
    more, position = read_on(platform, position=position)
    assert lines + more == ["first, early", "first, late", "second"]
    assert read_on(platform, position=position)[0] == []


def test_after_a_restart_by_jobset_the_new_pods_log_is_read_from_its_start(
    platform: KubernetesPlatform, cluster: Cluster
) -> None:
    (pod,) = cluster.start("a-job")
    cluster.running(pod).write("before")
    _, position = read_on(platform)
    (pod,) = cluster.restart("a-job")
    cluster.running(pod).write("after")
    assert read_on(platform, position=position)[0] == ["after"]


def test_a_rotated_log_gives_what_is_left_of_it_once(platform: KubernetesPlatform, cluster: Cluster) -> None:
    (pod,) = cluster.start("a-job")
    log = cluster.running(pod)
    for number in range(10):
        log.write(f"line {number}", at=START + number)
    _, position = read_on(platform)
    log.write("line 10", at=START + 10)
    log.rotate(keep=3)
    lines, position = read_on(platform, position=position)
    assert lines == ["line 10"]
    for number in range(11, 20):
        log.write(f"line {number}", at=START + number)
    log.rotate(keep=2)
    assert read_on(platform, position=position)[0] == ["line 18", "line 19"]


def test_a_machine_that_does_not_answer_is_worth_asking_again_until_it_is_lost(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    (pod,) = cluster.start("a-job")
    cluster.running(pod)
    wire.faults = [Fault("GET", "/log", status=500, message="dial tcp 10.0.0.7:10250: i/o timeout", times=99)]
    with pytest.raises(ApiUnavailableError, match="10250: i/o timeout"):
        read_on(platform)
    cluster.lose_machine(pod)
    assert read_on(platform)[0] == []


def test_a_thousand_messages_a_second_arrive_in_order(platform: KubernetesPlatform, cluster: Cluster) -> None:
    (pod,) = cluster.start("a-job")
    log = cluster.running(pod)
    read: list[str] = []
    position = ""
    for second in range(5):
        for number in range(1000):
            log.write(f"{second * 1000 + number}", at=START + second * SECOND + number * (SECOND // 1000))
        lines, position = read_on(platform, position=position)
        read += lines
    assert read == [str(number) for number in range(5000)]
    assert len(position) < 200


@settings(max_examples=100)
@given(
    steps=st.lists(
        st.tuples(st.integers(-2 * SECOND + 1, 3 * SECOND), st.sampled_from(["", "a", "b"])), min_size=1, max_size=40
    ),
    polls=st.sets(st.integers(0, 40)),
)
def test_whatever_the_stamps_and_polls_every_line_is_read_once(steps: list[tuple[int, str]], polls: set[int]) -> None:
    """Stamps run on by steps, backwards by less than two seconds at most from the latest."""
    log = WireLog()
    latest = START
    position = LogPosition()
    read: list[str] = []

    def poll() -> None:
        nonlocal position
        query = {"timestamps": "true"} | ({"sinceTime": position.since_time} if position.since_time else {})
        content = b"".join(chunk or b"" for chunk in log.read(query))
        lines, position = position.advance(content, ended=False)
        read.extend(lines)
        position = LogPosition.parse(position.dump())

    for number, (step, line) in enumerate(steps):
        log.write(line, at=latest + step)
        latest = max(latest, latest + step)
        if number in polls:
            poll()
    poll()
    poll()
    assert read == [line for _, line in steps]
