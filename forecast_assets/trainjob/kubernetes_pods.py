"""What a pod says of the node that it is: the newest pod of an index, its phase, and the reason in one word.

Reasons are Kubernetes' own ("Unschedulable", "ImagePullBackOff", "OOMKilled", "CrashLoopBackOff", "Evicted" …), but for
"NodeLost" and "Evicted", which gather several of its wordings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from forecast_assets.trainjob.observation import NodeObservation, NodePhase

Document = dict[str, Any]

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
ROLE_LABEL = "jobset.sigs.k8s.io/replicatedjob-name"
RESTART_LABEL = "jobset.sigs.k8s.io/restart-attempt"
NODE_ROLE = "node"
CONTAINER = "node"

# How long after its grace period a pod on a machine that answers may still be there.
_OVERDUE = timedelta(seconds=30)
# Reasons of a waiting container that say no more than that it takes its time.
_QUIET = {"ContainerCreating", "PodInitializing"}
_LOST = {"DeletionByTaintManager", "DeletionByPodGC", "NodeLost", "NodeShutdown", "Shutdown"}
_EVICTED = {"PreemptionByScheduler", "EvictionByEvictionAPI", "TerminationByKubelet", "Preempting"}


@dataclass(frozen=True, slots=True)
class NodePods:
    """All pods that have been one node, the newest last."""

    index: int
    pods: Sequence[Document]

    @property
    def newest(self) -> Document:
        return self.pods[-1]

    @property
    def replaced(self) -> Sequence[Document]:
        """Pods that the Job controller replaced one by one, as against JobSet, which restarts all nodes together."""
        attempt = _restart_attempt(self.newest)
        return [pod for pod in self.pods[:-1] if _restart_attempt(pod) == attempt]

    @property
    def restarts(self) -> int:
        """How often the node was started before, by whichever controller."""
        in_pod = int(container_status(self.newest).get("restartCount", 0))
        return _restart_attempt(self.newest) + len(self.replaced) + in_pod

    def failures_in_place(self) -> list[NodeObservation]:
        """How the node failed since JobSet last started it: replaced pods, containers started again, and now."""
        failures = [observed(self.index, pod, 0) for pod in [*self.replaced, self.newest]]
        status = container_status(self.newest)
        ended = (status.get("lastState") or {}).get("terminated")
        # A container that crashes again and again leaves only its last end behind, and how often it was started.
        again = [_ended(self.index, self.newest, ended, 0)] * int(status.get("restartCount", 0)) if ended else []
        return [node for node in [*failures, *again] if node.phase == "failed"]


def nodes_of(pods: Iterable[Document]) -> list[NodePods]:
    """The pods of training nodes by index. Several pods of one index are in the order of their creation."""
    by_index: dict[int, list[Document]] = {}
    for pod in pods:
        labels = pod["metadata"].get("labels", {})
        if labels.get(ROLE_LABEL) == NODE_ROLE:
            by_index.setdefault(int(labels.get(INDEX_LABEL, 0)), []).append(pod)
    return [NodePods(index, sorted(pods, key=_age)) for index, pods in sorted(by_index.items())]


def observed(index: int, pod: Document, restart: int) -> NodeObservation:
    """What a pod says of its node."""
    status = pod.get("status", {})
    place = pod["metadata"]["name"]

    def node(phase: NodePhase, reason: str = "", message: str = "") -> NodeObservation:
        return NodeObservation(
            index=index, restart=restart, phase=phase, place=place, reason=reason, message=message.strip()
        )

    container = container_status(pod)
    state = container.get("state") or {}
    if ended := state.get("terminated"):
        return _ended(index, pod, ended, restart)
    disruption = _condition(pod, "DisruptionTarget")
    if disruption or status.get("reason") in _LOST:
        reason = _canonical(disruption.get("reason") or status["reason"])
        phase: NodePhase = "failed" if status.get("phase") == "Failed" else "unknown"
        return node(phase, reason, disruption.get("message") or status.get("message") or "")
    if status.get("phase") == "Failed":
        return node("failed", _canonical(status.get("reason", "Failed")), status.get("message", ""))
    if status.get("phase") == "Succeeded":
        return node("succeeded")
    if status.get("phase") == "Unknown":
        return node("unknown", "NodeLost", status.get("message", ""))
    if waiting := _waiting(status):
        return node("pending", waiting.get("reason", ""), waiting.get("message", ""))
    if "running" in state:
        last = (container.get("lastState") or {}).get("terminated") or {}
        return node("running", last.get("reason", ""))
    scheduled = _condition(pod, "PodScheduled", "False")
    return node("pending", scheduled.get("reason", ""), scheduled.get("message", ""))


def unready_for(pod: Document, now: datetime) -> timedelta:
    """For how long a running pod has not been ready, as happens when its machine does not answer; else zero."""
    running = "running" in (container_status(pod).get("state") or {})
    ready = _condition(pod, "Ready", "False")
    since = timestamp(ready.get("lastTransitionTime"))
    return now - since if running and since else timedelta(0)


def is_lost(pod: Document) -> bool:
    """Kubernetes has given the pod's machine up; the pod stays until somebody deletes the machine or it returns."""
    status = pod.get("status", {})
    reasons = {_condition(pod, "DisruptionTarget").get("reason"), status.get("reason")}
    return status.get("phase") == "Unknown" or bool(reasons & _LOST)


def is_ready(pod: Document) -> bool:
    """It runs, and its machine answers."""
    return bool(_condition(pod, "Ready")) and not has_ended(pod)


def never_ends(pod: Document) -> bool:
    """A deleted pod whose machine does not carry the deletion out."""
    deleted = timestamp(pod["metadata"].get("deletionTimestamp"))
    overdue = deleted is not None and datetime.now(UTC) > deleted + _OVERDUE
    return is_lost(pod) or (overdue and bool(_condition(pod, "Ready", "False")))


def has_ended(pod: Document) -> bool:
    """Its container writes no more."""
    status = pod.get("status", {})
    return status.get("phase") in ("Succeeded", "Failed") or "terminated" in (container_status(pod).get("state") or {})


def container_status(pod: Document) -> Document:
    """The status of the container that trains."""
    statuses: list[Document] = pod.get("status", {}).get("containerStatuses") or []
    return next((status for status in statuses if status["name"] == CONTAINER), {})


def timestamp(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text) if text else None


def _ended(index: int, pod: Document, ended: Mapping[str, Any], restart: int) -> NodeObservation:
    code = int(ended["exitCode"])
    reason = ended.get("reason", "")
    if code and (disruption := _condition(pod, "DisruptionTarget")):
        reason = _canonical(disruption.get("reason", ""))
    return NodeObservation(
        index=index,
        restart=restart,
        phase="failed" if code else "succeeded",
        place=pod["metadata"]["name"],
        exit_code=code,
        reason=reason,
        message=ended.get("message", "").strip(),
        ended_at=timestamp(ended.get("finishedAt")),
    )


def _waiting(status: Document) -> Document:
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    waiting = [(container.get("state") or {}).get("waiting") or {} for container in containers]
    telling = [state for state in waiting if state and state.get("reason") not in _QUIET]
    return (telling or [state for state in waiting if state] or [{}])[0]


def _condition(pod: Document, kind: str, value: str = "True") -> Document:
    conditions = pod.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind and c["status"] == value), {})


def _canonical(reason: str) -> str:
    return "NodeLost" if reason in _LOST else "Evicted" if reason in _EVICTED else reason


def _restart_attempt(pod: Document) -> int:
    return int(pod["metadata"].get("labels", {}).get(RESTART_LABEL, 0))


def _age(pod: Document) -> tuple[int, str, str]:
    return _restart_attempt(pod), pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]
