"""What can be seen of a TrainJob, wherever it runs, and the protocol by which the client sees it.

Plain data on purpose: what a failure means is decided in one place, from these, for every backend.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from kubeflow.trainer import TrainerClient

# gone: there is no job of this name.
JobPhase = Literal["pending", "running", "complete", "failed", "gone"]
NodePhase = Literal["pending", "running", "succeeded", "failed", "unknown"]

# Labels and annotations that the client puts on its jobs.
PREFIX = "dagster.trainjob"
OWNER_LABELS = {f"{PREFIX}/owner": "pipes-client"}
RUN_LABEL = f"{PREFIX}/run-id"
ASSET_LABEL = f"{PREFIX}/asset"
ATTEMPT_LABEL = f"{PREFIX}/attempt"
# Where the job's messages are, so that another process can go on reading: a path, or LOG_MESSAGES.
MESSAGES_ANNOTATION = f"{PREFIX}/messages"
LOG_MESSAGES = "log"
# What the client made of the ended job, as JSON: set once, by `JobPlatform.conclude`.
VERDICT_ANNOTATION = f"{PREFIX}/verdict"


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEvent:
    """Something that happened to a job. ``subject`` is what it happened to, such as "node-1" or a pod's name."""

    time: datetime
    subject: str
    reason: str
    message: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeObservation:
    """One node's newest incarnation.

    Attributes:
        index: 0 is the node of rank 0.
        restart: how often it was replaced before.
        phase: of this incarnation.
        place: the pod's name, or the process's number.
        exit_code: once it ended; negative for a signal (-9, which shells and Kubernetes call 137).
        reason: one word of the backend's: "Unschedulable", "ImagePullBackOff", "OOMKilled", "NodeLost" …
        message: what the backend adds to it.
        ended_at: when it ended.
    """

    index: int
    restart: int = 0
    phase: NodePhase = "unknown"
    place: str = ""
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    ended_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobObservation:
    """A job as it is now.

    Attributes:
        uid: what tells the job from others that had or will have its name; empty where there is none.
        phase: "failed" as soon as it cannot succeed any more, even where the backend has no condition for that yet.
        reason: one word of the backend's: "Suspended", "Unschedulable", "DeadlineExceeded", "OOMKilled" …
        message: what the backend adds to it.
        nodes: in the order of their index; empty where none exists yet.
        events: oldest first.
        created_at: when it was submitted.
        ended_at: when it completed or failed.
        labels, annotations: as stored.
    """

    name: str
    phase: JobPhase
    uid: str = ""
    reason: str = ""
    message: str = ""
    nodes: tuple[NodeObservation, ...] = ()
    events: tuple[JobEvent, ...] = ()
    created_at: datetime | None = None
    ended_at: datetime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """It will not change any more."""
        return self.phase in ("complete", "failed", "gone")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogChunk:
    """Lines of a node's log, and the position to read on from, which outlives the process that reads.

    Lines are whole, without their ends, and undecodable bytes are replaced. ``position`` is opaque text.
    """

    lines: Sequence[str]
    position: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A job to be, in terms that every backend has.

    Attributes:
        name: a DNS label of at most 63 characters.
        trainer: any trainer object of the Kubeflow SDK, complete with nodes, resources and environment.
        runtime: name of the training runtime; None takes the platform's.
        command, args: what every node runs, for a ``CustomTrainerContainer``; None leaves it to image and runtime.
        labels, annotations: to be stored with the job.
        deadline_seconds: from submission; None for no limit.
        options: further options of the SDK, such as one RuntimePatch, passed through as they are.
    """

    name: str
    trainer: Any
    runtime: str | None = None
    command: Sequence[str] | None = None
    args: Sequence[str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    deadline_seconds: int | None = None
    options: Sequence[Any] = ()


class JobPlatform(Protocol):
    """A place where TrainJobs run, reached through the SDK's ``TrainerClient`` and what that leaves out.

    All methods but `submit` may be called by another process than the one that submitted the job. They raise
    ApiUnavailableError for what is worth asking again (no connection, 429, 5xx) and RejectedError for 401 and 403;
    a job that does not exist is no error, but ``phase="gone"``, an empty log, or nothing left to delete.
    """

    @property
    def namespace(self) -> str:
        """The namespace of its jobs, for messages; "local" on this machine."""

    @property
    def poll_seconds(self) -> float:
        """How often it is reasonable to look."""

    @property
    def trainer_client(self) -> "TrainerClient":
        """The SDK's client with this platform behind it, for notebooks and whoever wants no Dagster."""

    def submit(self, submission: Submission) -> None:
        """Create the job, and see that it was stored as sent.

        Raises:
            AlreadySubmittedError: a job of this name exists.
            RejectedError: the server refused it; the message is the server's.
            FieldsDroppedError: a field is not in the stored job, which was deleted again.
            NotSubmittedError: this platform cannot run such a job, and why.
        """

    def observe(self, name: str) -> JobObservation:
        """The job as it is now."""

    def read_log(self, name: str, node: int, position: str = "") -> LogChunk:
        """What a node has written after ``position`` ("" for its start), without waiting; no lines if nothing."""

    def conclude(self, name: str, verdict: str) -> None:
        """Store what the client made of an ended job, as VERDICT_ANNOTATION."""

    def delete(self, name: str, uid: str | None = None) -> None:
        """End the job and forget it; returns when none of its processes is left.

        With the ``uid`` of an observation, a job that has come in its place since is left alone.
        """

    def list_jobs(self, labels: Mapping[str, str]) -> Sequence[JobObservation]:
        """The jobs that have all these labels, oldest first; nodes and events may be missing."""

    def find(self, name: str) -> Mapping[str, str]:
        """How a person finds the job, by what it is: {"kubectl": "kubectl -n … get trainjob …"}, {"folder": "/…"}."""
