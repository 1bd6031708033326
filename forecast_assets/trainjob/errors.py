"""What can go wrong with a TrainJob.

TrainJobError
 ├─ NotSubmittedError                the job does not exist: the backend cannot run it as asked
 │   ├─ AlreadySubmittedError        a job of this name exists (409); the client adopts it
 │   ├─ RejectedError                the API server refused it; the message is the server's
 │   └─ FieldsDroppedError           the server stored it without a field; the job was deleted again
 ├─ ApiUnavailableError              the API server did not answer, or with 429 or 5xx; the job itself may be well
 ├─ NotStartedError                  the job exists, but its nodes did not start in time
 │   ├─ UnschedulableError           no machine has room for a node
 │   ├─ ImageError                   the image cannot be pulled
 │   └─ QuotaExceededError           the namespace's quota, or Kueue's, does not admit it
 ├─ JobGoneError                     someone deleted the job while it was followed
 ├─ JobFailedError                   a process failed and nothing says more than its exit status
 │   ├─ UserError                    the job says that its spec or its data must be put right
 │   ├─ DivergedError                the loss is no number any more
 │   ├─ CudaOutOfMemoryError         a GPU's memory is full
 │   ├─ OutOfMemoryError             the kernel ended a process for lack of memory (137, OOMKilled)
 │   ├─ KilledError                  a process was ended by SIGKILL, by whom is not known
 │   ├─ PreemptedError               told to end, the job saved a checkpoint (exit status 75)
 │   ├─ NodeLostError                a node's machine, or the job's supervisor, is gone
 │   ├─ DeadlineExceededError        the job took longer than it may
 │   ├─ RendezvousTimeoutError       the nodes did not find each other
 │   ├─ CollectiveTimeoutError       a process waited in vain for the others (NCCL or gloo)
 │   ├─ CheckpointWriteError         a checkpoint could not be written
 │   └─ LostDatabaseError            the job lost its database
 └─ UntrustedResultError             all processes ended with 0, but that is not taken for success
     ├─ NoResultError                nothing was reported
     ├─ GarbledMessagesError         what was reported cannot be read
     └─ ResultMismatchError          what was reported is not what is there, such as another bundle's hash
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from forecast_assets.trainjob.observation import JobEvent


@dataclass(frozen=True, kw_only=True, slots=True)
class JobDetails:
    """What is known of the job that failed.

    Attributes:
        name: of the job.
        namespace: it is in; "local" on this machine.
        phase: the job's last phase.
        reason: one word of the backend's for that phase, such as "OOMKilled".
        events: what happened to the job, oldest first.
        log_tail: the last lines that the node which failed first wrote.
        exit_code: the exit status of the process that failed first, negative for a signal.
        find: how to look for oneself, such as a kubectl command or a folder.
    """

    name: str
    namespace: str
    phase: str = "unknown"
    reason: str = ""
    events: Sequence[JobEvent] = ()
    log_tail: Sequence[str] = ()
    exit_code: int | None = None
    find: str = ""


class TrainJobError(Exception):
    """Base of all errors of a TrainJob.

    The message names the job, says what happened, and ends with the log's last lines and where to look.

    Attributes:
        kind: the error's name in recovery policies and in the messages of jobs: ``{"type": "error", "kind": KIND}``.
        summary: what happened, in one sentence.
        details: what is known of the job.
    """

    kind: ClassVar[str] = "error"

    def __init__(self, summary: str, details: JobDetails) -> None:
        self.summary = summary
        self.details = details
        super().__init__(_message(summary, details))


class NotSubmittedError(TrainJobError):
    """The job does not exist: the backend cannot run it as asked."""

    kind = "not_submitted"


class AlreadySubmittedError(NotSubmittedError):
    """A job of this name exists already."""

    kind = "already_submitted"


class RejectedError(NotSubmittedError):
    """The API server refused the job, or refuses us."""

    kind = "rejected"


class FieldsDroppedError(NotSubmittedError):
    """The server stored the job without a field that was sent: it is older than the SDK."""

    kind = "fields_dropped"


class ApiUnavailableError(TrainJobError):
    """The API server did not answer, or with 429 or 5xx: worth asking again."""

    kind = "api_unavailable"


class NotStartedError(TrainJobError):
    """The job's nodes did not start in time."""

    kind = "not_started"


class UnschedulableError(NotStartedError):
    """No machine has room for a node."""

    kind = "unschedulable"


class ImageError(NotStartedError):
    """The image cannot be pulled."""

    kind = "image"


class QuotaExceededError(NotStartedError):
    """The quota of the namespace or the queue does not admit the job."""

    kind = "quota_exceeded"


class JobGoneError(TrainJobError):
    """Someone deleted the job while it was followed."""

    kind = "gone"


class JobFailedError(TrainJobError):
    """A process failed and nothing says more than its exit status."""

    kind = "failed"


class UserError(JobFailedError):
    """The spec or the data must be put right; trying again would fail in the same way."""

    kind = "user_error"


class DivergedError(JobFailedError):
    """The loss is no number any more."""

    kind = "diverged"


class CudaOutOfMemoryError(JobFailedError):
    """A GPU's memory is full."""

    kind = "cuda_out_of_memory"


class OutOfMemoryError(JobFailedError):
    """The kernel ended a process for lack of memory."""

    kind = "out_of_memory"


class KilledError(JobFailedError):
    """A process was ended by SIGKILL: by someone, or by a kernel short of memory."""

    kind = "killed"


class PreemptedError(JobFailedError):
    """Told to end, the job saved a checkpoint and can go on from there."""

    kind = "preempted"


class NodeLostError(JobFailedError):
    """A node's machine, or the local job's supervisor, is gone."""

    kind = "node_lost"


class DeadlineExceededError(JobFailedError):
    """The job took longer than it may."""

    kind = "deadline_exceeded"


class RendezvousTimeoutError(JobFailedError):
    """The nodes did not find each other."""

    kind = "rendezvous_timeout"


class CollectiveTimeoutError(JobFailedError):
    """A process waited in vain for the others."""

    kind = "collective_timeout"


class CheckpointWriteError(JobFailedError):
    """A checkpoint could not be written."""

    kind = "checkpoint_write"


class LostDatabaseError(JobFailedError):
    """The job lost its database."""

    kind = "lost_database"


class UntrustedResultError(TrainJobError):
    """All processes ended with 0, but that is not taken for success."""

    kind = "untrusted_result"


class NoResultError(UntrustedResultError):
    """The job reported no materialization."""

    kind = "no_result"


class GarbledMessagesError(UntrustedResultError):
    """What the job reported cannot be read."""

    kind = "garbled_messages"


class ResultMismatchError(UntrustedResultError):
    """What the job reported is not what is there."""

    kind = "result_mismatch"


# Kinds that pass by themselves or with an adjustment: a policy may try again. All others need a person.
RECOVERABLE_KINDS = frozenset(
    error.kind
    for error in (
        DivergedError,
        CudaOutOfMemoryError,
        OutOfMemoryError,
        KilledError,
        PreemptedError,
        NodeLostError,
        RendezvousTimeoutError,
        CollectiveTimeoutError,
        CheckpointWriteError,
        LostDatabaseError,
    )
)


def _message(summary: str, details: JobDetails) -> str:
    lines = [f"TrainJob {details.namespace}/{details.name}: {summary}"]
    if details.reason:
        lines.append(f"phase: {details.phase} ({details.reason})")
    if details.events:
        lines.append("events:")
        lines += [f"  {event.subject}: {event.reason}: {event.message}" for event in details.events[-10:]]
    if details.log_tail:
        lines.append("the last lines of the node that failed first:")
        lines += [f"  {line}" for line in details.log_tail]
    if details.find:
        lines.append(f"to look: {details.find}")
    return "\n".join(lines)
