"""Why a job failed, from what can be seen of it. Everything that is known of failures is data in this module."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forecast_assets.trainjob import errors
from forecast_assets.trainjob.observation import JobObservation, NodeObservation

_SIGKILL_CODES = (-9, 137)
USER_ERROR_CODE = 2
RESUME_CODE = 75

# One word of a backend's, of the job or a node, to the error.
ERROR_OF_REASON: Mapping[str, type[errors.TrainJobError]] = {
    "OOMKilled": errors.OutOfMemoryError,
    "Killed": errors.KilledError,
    "DeadlineExceeded": errors.DeadlineExceededError,
    "Deleted": errors.JobGoneError,
    "NodeLost": errors.NodeLostError,
    "NodeShutdown": errors.NodeLostError,
    "Evicted": errors.NodeLostError,
    "Preempting": errors.NodeLostError,
    "DisruptionTarget": errors.NodeLostError,
    "Unschedulable": errors.UnschedulableError,
    "QuotaExceeded": errors.QuotaExceededError,
    "Suspended": errors.QuotaExceededError,
    "ErrImagePull": errors.ImageError,
    "ImagePullBackOff": errors.ImageError,
    "InvalidImageName": errors.ImageError,
    "ErrImageNeverPull": errors.ImageError,
    "RegistryUnavailable": errors.ImageError,
}
# What a job says of itself, to the error.
ERROR_OF_KIND: Mapping[str, type[errors.TrainJobError]] = {
    each.kind: each
    for each in (
        errors.UserError,
        errors.DivergedError,
        errors.CudaOutOfMemoryError,
        errors.OutOfMemoryError,
        errors.CollectiveTimeoutError,
        errors.RendezvousTimeoutError,
        errors.CheckpointWriteError,
        errors.LostDatabaseError,
    )
}
# These a job also says when another of its processes was killed and it waits in vain: then the killing counts.
_MAY_BE_CONSEQUENCES = (errors.CollectiveTimeoutError, errors.RendezvousTimeoutError)
# The words of PyTorch and Python for jobs that say nothing through Pipes; the first that matches counts.
_ERROR_OF_LOG: Sequence[tuple[str, type[errors.TrainJobError]]] = (
    (r"CUDA out of memory|CUBLAS_STATUS_ALLOC_FAILED", errors.CudaOutOfMemoryError),
    (r"DefaultCPUAllocator: can't allocate memory|Cannot allocate memory|^MemoryError\b", errors.OutOfMemoryError),
    (r"RendezvousTimeoutError|client socket has timed out|timed out .* waiting for clients",
     errors.RendezvousTimeoutError),
    (r"Watchdog caught collective operation timeout|Timed out waiting \d+ms for", errors.CollectiveTimeoutError),
)  # fmt: skip
_ROOT_CAUSE = re.compile(r"Root Cause.*?rank\s*: (?P<rank>\d+).*?exitcode\s*: (?P<exit_code>-?\d+)", re.DOTALL)
_TORCHRUN_LINE = re.compile(r"[WE]\d{4} .*torch/distributed/elastic/|Traceback .*torch/distributed/run")
_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The error's class, what happened in one sentence, and what belongs to it."""

    error: type[errors.TrainJobError]
    summary: str
    exit_code: int | None = None
    log_tail: Sequence[str] = ()


def diagnose(
    job: JobObservation, reports: Sequence[Mapping[str, Any]], exception: str, logs: Mapping[int, Sequence[str]]
) -> Diagnosis:
    """Why ``job``, which has failed or is gone, did so.

    Args:
        job: as it was last seen.
        reports: what the job itself said of its failure, by messages of the type "error".
        exception: what ended the job while Pipes was open.
        logs: the last lines of each node by its index.
    """
    node = first_failed(job)
    log = logs.get(node.index, ()) if node is not None else ()
    rank, exit_code = _root_cause(log)
    exit_code = exit_code if exit_code is not None else (node.exit_code if node is not None else None)
    who = f"rank {rank}" if rank is not None else f"node {node.index}" if node is not None else "the job"

    def found(error: type[errors.TrainJobError], summary: str) -> Diagnosis:
        return Diagnosis(error, summary, exit_code, _tail(log))

    if job.phase == "gone":
        return found(errors.JobGoneError, "it was deleted while it was followed")
    said = _said(reports)
    if said is not None and said[0] not in _MAY_BE_CONSEQUENCES:
        return found(*said)
    for reason, message in ((job.reason, job.message), *((n.reason, n.message) for n in job.nodes)):
        if error := ERROR_OF_REASON.get(reason):
            return found(error, message or f"{reason}: {who} failed")
    if exit_code in _SIGKILL_CODES:
        return found(errors.KilledError, f"{who} was ended by SIGKILL, by someone or by a kernel short of memory")
    if said is not None:
        return found(*said)
    if exit_code == RESUME_CODE:
        return found(errors.PreemptedError, f"{who} was told to end and saved a checkpoint (exit status {RESUME_CODE})")
    text = "\n".join(log)
    for pattern, error in _ERROR_OF_LOG:
        if matched := re.search(pattern, text, re.MULTILINE):
            return found(error, f"{who} failed: {_line_around(text, matched.start())}")
    if exit_code == USER_ERROR_CODE:
        return found(errors.UserError, f"{who} refuses what it was given (exit status {USER_ERROR_CODE})")
    if exception:
        return found(errors.JobFailedError, f"{who} failed: {exception}")
    return found(errors.JobFailedError, f"{who} ended with status {exit_code}" if node is not None else job.message)


def first_failed(job: JobObservation) -> NodeObservation | None:
    """The node that failed first; those that were ended because of it do not count."""
    failed = [node for node in job.nodes if node.phase == "failed" and node.reason != "Terminated"]
    return min(failed, key=lambda node: (node.ended_at is None, node.ended_at, node.index), default=None)


def _said(reports: Sequence[Mapping[str, Any]]) -> tuple[type[errors.TrainJobError], str] | None:
    if not reports:
        return None
    # The last, because processes that were restarted have said something before. Without a kind it is a mistake of the
    # caller, which is not tried again.
    report = reports[-1]
    return ERROR_OF_KIND.get(str(report.get("kind", "user_error")), errors.JobFailedError), str(report.get("message"))


def _root_cause(log: Sequence[str]) -> tuple[int | None, int | None]:
    """Rank and exit status of the process that failed first, as torchrun reports it at the end of a node's log."""
    matched = _ROOT_CAUSE.search("\n".join(log))
    return (int(matched["rank"]), int(matched["exit_code"])) if matched else (None, None)


def _tail(log: Sequence[str]) -> Sequence[str]:
    """The last lines before torchrun noticed the failure: it then writes a long report without the reason."""
    noticed = next((n for n, line in enumerate(log) if _TORCHRUN_LINE.match(line)), len(log))
    return (log[:noticed] or log)[-_TAIL_LINES:]


def _line_around(text: str, position: int) -> str:
    return text[text.rfind("\n", 0, position) + 1 :].partition("\n")[0].strip()
