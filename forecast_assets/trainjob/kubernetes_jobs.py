"""From the documents of a TrainJob and what it owns to an observation of the job.

A TrainJob has no condition until its end, and none for what will never end: crash loops, pods replaced one by one,
machines that are gone. Those are read from pods, events, the Job and the JobSet.
"""

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from forecast_assets.trainjob.kubernetes_pods import (
    Document,
    NodePods,
    is_lost,
    nodes_of,
    observed,
    timestamp,
    unready_for,
)
from forecast_assets.trainjob.observation import VERDICT_ANNOTATION, JobEvent, JobObservation, JobPhase, NodeObservation

# One replacement may be bad luck; a second failure of the same node is how it would go on.
_FAILURES_TOLERATED = 1
_DEFAULT_BACKOFF_LIMIT = 6
_TELLING = ("OOMKilled", "NodeLost", "Evicted")
_ROLES = ("node", "launcher", "dataset-initializer", "model-initializer")
_OWNED_KINDS = {"TrainJob", "JobSet", "Job", "Pod", "Workload"}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobDocuments:
    """A TrainJob and what it owns, as the API gives them."""

    trainjob: Document
    pods: Sequence[Document] = ()
    jobset: Document | None = None
    jobs: Sequence[Document] = ()
    events: Sequence[Document] = ()
    workloads: Sequence[Document] = ()
    now: datetime = field(default_factory=lambda: datetime.now(UTC))


def observe(documents: JobDocuments, node_lost_after: timedelta) -> JobObservation:
    """The job as it is now.

    Args:
        documents: what the API says.
        node_lost_after: how long a machine may be silent before its node counts as lost.
    """
    metadata = documents.trainjob["metadata"]
    name = metadata["name"]
    pods = nodes_of(documents.pods)
    events = tuple(events_of(name, documents.events))
    unreachable = {event.subject for event in events if event.reason == "NodeNotReady"}
    nodes = tuple(_node(node, documents.now, node_lost_after, unreachable) for node in pods)
    phase, reason, message, ended_at = _phase(documents, pods, nodes, events)
    return JobObservation(
        name=name,
        phase=phase,
        uid=metadata.get("uid", ""),
        reason=reason,
        message=message,
        nodes=nodes,
        events=events,
        created_at=timestamp(metadata.get("creationTimestamp")),
        ended_at=ended_at,
        labels=metadata.get("labels") or {},
        annotations=metadata.get("annotations") or {},
    )


def has_final_condition(trainjob: Document) -> bool:
    """Kubeflow Trainer has ended the job."""
    return bool(_condition(trainjob, "Complete") or _condition(trainjob, "Failed"))


def events_of(name: str, events: Iterable[Document]) -> list[JobEvent]:
    """The events of a job and of what it owns, pods that are gone included, oldest first."""
    job = re.escape(name)
    owned = re.compile(rf"{job}(-({'|'.join(_ROLES)})-\d+(-\d+-[a-z0-9]+)?)?|trainjob-{job}-[a-z0-9]{{5}}")
    of_job = [
        JobEvent(
            time=_time(event),
            subject=event["involvedObject"]["name"],
            reason=event.get("reason") or "",
            message=(event.get("message") or "").strip(),
        )
        for event in events
        if event["involvedObject"].get("kind") in _OWNED_KINDS
        and owned.fullmatch(event["involvedObject"].get("name", ""))
    ]
    return sorted(of_job, key=lambda event: event.time)


def _phase(
    documents: JobDocuments, pods: Sequence[NodePods], nodes: Sequence[NodeObservation], events: Sequence[JobEvent]
) -> tuple[JobPhase, str, str, datetime | None]:
    trainjob = documents.trainjob
    if complete := _condition(trainjob, "Complete"):
        return "complete", complete["reason"], complete.get("message", ""), _changed(complete)
    first = _first_failure(pods, nodes)
    if failed := _condition(trainjob, "Failed"):
        if first and first.reason in _TELLING:
            return "failed", first.reason, first.message or failed.get("message", ""), _changed(failed)
        return "failed", failed["reason"], failed.get("message", ""), _changed(failed)
    if trainjob["metadata"].get("deletionTimestamp"):
        return "gone", "Deleted", "the job is being deleted", None
    suspended = _condition(trainjob, "Suspended")
    if VERDICT_ANNOTATION in (trainjob["metadata"].get("annotations") or {}):
        return "failed", "Stopped", "its client has given it up", _changed(suspended)
    if suspended or trainjob["spec"].get("suspend"):
        return "pending", "Suspended", _quota_message(documents) or suspended.get("message", ""), None
    if not nodes:
        return "pending", *_why_no_pods(events), None
    lost = next((node for node in nodes if node.reason == "NodeLost" and node.phase != "running"), None)
    if lost and lost.phase == "unknown":
        return "failed", "NodeLost", lost.message, None
    if first and _hopeless(documents, pods, nodes):
        return "failed", first.reason, first.message, first.ended_at
    unready = next((node for node in nodes if node.phase == "pending"), None)
    if unready:
        return "pending", unready.reason, unready.message, None
    telling = next((node for node in nodes if node.reason and node.phase in ("failed", "running")), None)
    return "running", telling.reason if telling else "", telling.message if telling else "", None


def _node(node: NodePods, now: datetime, lost_after: timedelta, unreachable: Container[str]) -> NodeObservation:
    seen = observed(node.index, node.newest, node.restarts)
    # A pod may be unready for reasons of its own; only with the event is it the machine's silence.
    silent = unready_for(node.newest, now) if seen.place in unreachable else timedelta(0)
    if not is_lost(node.newest) and silent <= lost_after:
        return seen
    message = seen.message or f"its machine has not answered for {silent.total_seconds():.0f} s"
    return replace(seen, phase="unknown", reason="NodeLost", message=message)


def _first_failure(pods: Sequence[NodePods], nodes: Sequence[NodeObservation]) -> NodeObservation | None:
    """The failure that came first; the others' are often its consequences. A lack of memory is always a cause."""
    failures = [failure for node in pods for failure in node.failures_in_place()]
    failures += [node for node in nodes if node.reason == "NodeLost"]
    latest = datetime.max.replace(tzinfo=UTC)
    return min(failures, key=lambda f: (f.reason not in _TELLING, f.ended_at or latest, f.index), default=None)


def _hopeless(documents: JobDocuments, pods: Sequence[NodePods], nodes: Sequence[NodeObservation]) -> bool:
    """Nodes failed, and what comes of it is known though no condition says so yet."""
    failures = {node.index: node.failures_in_place() for node in pods}
    if any(failure.reason == "OOMKilled" for found in failures.values() for failure in found):
        # A pod in its place has the same memory, and the other nodes wait for it in vain.
        return True
    if any(len(found) > _FAILURES_TOLERATED for found in failures.values()):
        return True
    if not any(node.phase == "failed" for node in nodes):
        return False
    failed_jobs = [job for job in documents.jobs if _condition(job, "Failed") or _condition(job, "FailureTarget")]
    limits = [int(job.get("spec", {}).get("backoffLimit", _DEFAULT_BACKOFF_LIMIT)) for job in documents.jobs]
    exhausted = bool(limits) and sum(map(len, failures.values())) > min(limits)
    return bool(failed_jobs or exhausted) and not _jobset_restarts(documents.jobset, failed_jobs)


def _jobset_restarts(jobset: Document | None, failed_jobs: Sequence[Document]) -> bool:
    if jobset is None or _condition(jobset, "Failed"):
        return False
    policy = jobset.get("spec", {}).get("failurePolicy") or {}
    reasons = {(_condition(job, "Failed") or _condition(job, "FailureTarget")).get("reason") for job in failed_jobs}
    for rule in policy.get("rules") or []:
        if not rule.get("onJobFailureReasons") or reasons & set(rule["onJobFailureReasons"]):
            if rule["action"] == "FailJobSet":
                return False
            if rule["action"] == "RestartJobSetAndIgnoreMaxRestarts":
                return True
            break
    return int(jobset.get("status", {}).get("restarts", 0)) < int(policy.get("maxRestarts", 0))


def _why_no_pods(events: Sequence[JobEvent]) -> tuple[str, str]:
    refused = next((event for event in reversed(events) if event.reason.startswith("Failed")), None)
    if refused is None:
        return "", ""
    return "QuotaExceeded" if "exceeded quota" in refused.message else refused.reason, refused.message


def _quota_message(documents: JobDocuments) -> str:
    """What Kueue says of the job's place in the queue."""
    uid = documents.trainjob["metadata"].get("uid")
    for workload in documents.workloads:
        if any(owner.get("uid") == uid for owner in workload["metadata"].get("ownerReferences", [])):
            waiting = _condition(workload, "QuotaReserved", "False")
            return str(waiting.get("message", ""))
    return ""


def _condition(document: Document, kind: str, value: str = "True") -> Document:
    conditions = document.get("status", {}).get("conditions") or []
    return next((c for c in conditions if c["type"] == kind and c["status"] == value), {})


def _changed(condition: Document) -> datetime | None:
    return timestamp(condition.get("lastTransitionTime"))


def _time(event: Document) -> datetime:
    """Events come with one of several times: the scheduler's, for one, have neither first nor last."""
    series = event.get("series") or {}
    text = (
        event.get("lastTimestamp")
        or series.get("lastObservedTime")
        or event.get("eventTime")
        or event.get("firstTimestamp")
        or event["metadata"].get("creationTimestamp")
    )
    return datetime.fromisoformat(text) if text else datetime.min.replace(tzinfo=UTC)
