"""Docker or podman as a place where TrainJobs run, through the container backend of the Kubeflow SDK.

That backend keeps no labels, no events, no deadline and no outcome of a job, and runs functions only. A file per job
beside the containers keeps what it leaves out, and a command is shipped as a function that runs it.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forecast_assets.trainjob.errors import (
    AlreadySubmittedError,
    ApiUnavailableError,
    JobDetails,
    NotSubmittedError,
    RejectedError,
)
from forecast_assets.trainjob.observation import (
    VERDICT_ANNOTATION,
    JobObservation,
    JobPhase,
    LogChunk,
    NodeObservation,
    NodePhase,
    Submission,
)

if TYPE_CHECKING:
    from kubeflow.trainer import TrainerClient

_JOB_LABEL = "trainer.kubeflow.org/trainjob-name"
_STEP_LABEL = "trainer.kubeflow.org/step"
_PHASES: Mapping[str, NodePhase] = {"created": "pending", "running": "running", "exited": "failed"}
_MODULE_PREFIX = ("torchrun", "-m")
_STOP_SECONDS = 10
# A job without containers after this has lost them, or whoever was to start them.
_CREATION_TIME = timedelta(minutes=10)


@dataclass(kw_only=True)
class ContainerPlatform:
    """TrainJobs as containers, one per node. See `JobPlatform` for the methods.

    Attributes:
        folder: for a file per job.
        shared: folders that every container sees at the same path, such as that of frames and bundles.
        engine: "docker" or "podman"; None takes the one that answers.
        socket: URL of the engine's socket; None takes the usual one.
    """

    folder: Path
    shared: Sequence[Path] = ()
    engine: Literal["docker", "podman"] | None = None
    socket: str | None = None

    namespace = "container"
    poll_seconds = 0.5

    @cached_property
    def trainer_client(self) -> "TrainerClient":
        """The SDK's client; its containers see the shared folders.

        Raises:
            NotSubmittedError: neither docker nor podman answers.
        """
        from kubeflow.trainer import ContainerBackendConfig, TrainerClient
        from kubeflow.trainer.backends.container.types import TrainingRuntimeSource

        config = ContainerBackendConfig(
            container_runtime=self.engine,
            container_host=self.socket,
            # The runtimes that come with the SDK: the others are read from GitHub.
            runtime_source=TrainingRuntimeSource(sources=[]),
        )
        try:
            client = TrainerClient(config)
        except RuntimeError as error:
            details = JobDetails(name="(none)", namespace=self.namespace)
            why = f"{error} Last: {error.__cause__}"
            raise NotSubmittedError(f"no container engine answers: {why}", details) from error
        backend: Any = client.backend
        backend._adapter = _Sharing(backend._adapter, self.shared)
        return client

    def submit(self, submission: Submission) -> None:
        """Start the job's containers; see `JobPlatform.submit`."""
        from kubeflow.trainer.options import Name

        details = JobDetails(name=submission.name, namespace=self.namespace)
        if submission.options:
            names = ", ".join(type(option).__name__ for option in submission.options)
            raise NotSubmittedError(f"not started: {names} is about pods: it needs a cluster", details)
        trainer = _as_function(submission, details)
        _ = self.trainer_client  # before anything is written, for no engine may answer
        file = self._file(submission.name)
        file.parent.mkdir(parents=True, exist_ok=True)
        job = {
            "created_at": datetime.now(UTC).isoformat(),
            "num_nodes": trainer.num_nodes or 1,
            "deadline_seconds": submission.deadline_seconds,
            "labels": dict(submission.labels),
            "annotations": dict(submission.annotations),
        }
        try:
            with file.open("x") as new:
                json.dump(job, new)
        except FileExistsError:
            raise AlreadySubmittedError("a job of this name exists", details) from None
        try:
            self.trainer_client.train(runtime=submission.runtime, trainer=trainer, options=[Name(submission.name)])
        except Exception as error:
            file.unlink()
            raise RejectedError(f"{self._backend._runtime_type} refuses it: {error}", details) from error

    def observe(self, name: str) -> JobObservation:
        """The job as it is now. Where a node has failed or the deadline has passed, the others are stopped."""
        job = self._job(name)
        if job is None:
            return JobObservation(name=name, phase="gone")
        created_at = datetime.fromisoformat(job["created_at"])
        containers = self._containers(name)
        nodes = tuple(self._node(container) for container in containers)
        phase, reason = _phase(nodes, job["num_nodes"])
        if not nodes and datetime.now(UTC) - created_at > _CREATION_TIME:
            phase, reason = "failed", "NodeLost"
        late = bool(job["deadline_seconds"]) and datetime.now(UTC) - created_at > timedelta(
            seconds=job["deadline_seconds"] or 0
        )
        running = [container for container in containers if container["status"] == "running"]
        if running and (late or phase == "failed"):
            for container in running:
                self._adapter.stop_container(container["id"], timeout=_STOP_SECONDS)
            if phase != "failed":
                self._change(name, reason="DeadlineExceeded")
            return self.observe(name)
        reason = job.get("reason", reason)
        return JobObservation(
            name=name,
            phase="failed" if job.get("reason") else phase,
            uid=job["created_at"],
            reason=reason,
            message=f"it ran longer than {job['deadline_seconds']} s" if reason == "DeadlineExceeded" else "",
            nodes=nodes,
            created_at=created_at,
            ended_at=max((node.ended_at for node in nodes if node.ended_at), default=None),
            labels=job["labels"],
            annotations=job["annotations"],
        )

    def read_log(self, name: str, node: int, position: str = "") -> LogChunk:
        """What a node has written after ``position``; a line without an end waits as long as the node runs."""
        for container in self._containers(name):
            if container["labels"].get(_STEP_LABEL) == f"node-{node}":
                found = self._adapter.get_container(container["id"]).logs(stdout=True, stderr=True)
                written = (found if isinstance(found, bytes) else b"".join(found))[int(position or 0) :]
                complete = written.rfind(b"\n") + 1 if container["status"] == "running" else len(written)
                lines = written[:complete].decode(errors="replace").split("\n")
                return LogChunk(
                    lines=lines[:-1] if lines[-1] == "" else lines, position=str(int(position or 0) + complete)
                )
        return LogChunk(lines=(), position=position)

    def conclude(self, name: str, verdict: str) -> None:
        """Keep the client's verdict with the job."""
        job = self._job(name)
        if job is not None:
            self._change(name, annotations={**job["annotations"], VERDICT_ANNOTATION: verdict})

    def delete(self, name: str, uid: str | None = None) -> None:
        """Stop and remove the job's containers and network."""
        if uid is not None and (self._job(name) or {}).get("created_at") != uid:
            return
        if self._containers(name):
            self.trainer_client.delete_job(name)
        self._file(name).unlink(missing_ok=True)

    def list_jobs(self, labels: Mapping[str, str]) -> Sequence[JobObservation]:
        """The jobs that have all these labels, oldest first."""
        jobs = [self.observe(file.stem) for file in self.folder.glob("*.json")]
        found = [job for job in jobs if job.created_at and labels.items() <= dict(job.labels).items()]
        return sorted(found, key=lambda job: (job.created_at, job.name))

    def find(self, name: str) -> Mapping[str, str]:
        """The command that shows the log of its first node."""
        engine = self._backend._runtime_type
        return {engine: f"{engine} logs -f {name}-node-0"}

    @property
    def _backend(self) -> Any:
        return self.trainer_client.backend

    @property
    def _adapter(self) -> Any:
        return self._backend._adapter

    def _containers(self, name: str) -> list[dict[str, Any]]:
        try:
            self._adapter.ping()
            found = self._adapter.list_containers(filters={"label": [f"{_JOB_LABEL}={name}"]})
        except Exception as error:
            details = JobDetails(name=name, namespace=self.namespace)
            raise ApiUnavailableError(f"the container engine does not answer: {error}", details) from error
        return sorted(found, key=lambda container: str(container["name"]))

    def _node(self, container: Mapping[str, Any]) -> NodeObservation:
        state: dict[str, Any] = self._adapter.get_container(container["id"]).attrs.get("State", {})
        phase = _PHASES.get(container["status"], "unknown")
        exit_code = state.get("ExitCode") if phase == "failed" else None
        return NodeObservation(
            index=int(container["labels"][_STEP_LABEL].rpartition("-")[2]),
            phase="succeeded" if exit_code == 0 else phase,
            place=container["name"],
            exit_code=exit_code,
            reason="OOMKilled" if state.get("OOMKilled") else "",
            ended_at=_time(state.get("FinishedAt")) if exit_code is not None else None,
        )

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _job(self, name: str) -> dict[str, Any] | None:
        try:
            job: dict[str, Any] = json.loads(self._file(name).read_text())
        except FileNotFoundError:
            return None
        return job

    def _change(self, name: str, **changes: Any) -> None:
        temporary = self.folder / f".{name}.{os.getpid()}"
        temporary.write_text(json.dumps({**(self._job(name) or {}), **changes}))
        temporary.replace(self._file(name))


class _Sharing:
    """The SDK's adapter of a container engine, whose containers see further folders."""

    def __init__(self, adapter: Any, shared: Sequence[Path]) -> None:
        self._adapter = adapter
        self._volumes = {str(folder): {"bind": str(folder), "mode": "rw"} for folder in shared}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def create_and_start_container(self, *, volumes: Mapping[str, Any], **arguments: Any) -> Any:
        """With the SDK's volumes and these."""
        return self._adapter.create_and_start_container(volumes={**volumes, **self._volumes}, **arguments)


def run_module(module: str, arguments: list[str]) -> None:
    """Run a module as its own program. Shipped to containers as text: imports what it needs."""
    import runpy
    import sys

    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")


def _as_function(submission: Submission, details: JobDetails) -> Any:
    """The trainer of a submission as the one kind that the SDK's backend runs."""
    from kubeflow.trainer import CustomTrainer, CustomTrainerContainer

    trainer = submission.trainer
    if isinstance(trainer, CustomTrainer):
        return trainer
    command = [*(submission.command or ()), *(submission.args or ())]
    if not isinstance(trainer, CustomTrainerContainer) or tuple(command[:2]) != _MODULE_PREFIX or len(command) < 3:
        raise NotSubmittedError(
            f"not started: in containers the SDK runs a CustomTrainer, and here also a CustomTrainerContainer whose "
            f"command begins with 'torchrun -m'; this is a {type(trainer).__name__} with {command}",
            details,
        )
    return CustomTrainer(
        func=run_module,
        func_args={"module": command[2], "arguments": command[3:]},
        image=trainer.image,
        num_nodes=trainer.num_nodes,
        resources_per_node=trainer.resources_per_node,
        env=trainer.env,
    )


def _phase(nodes: Sequence[NodeObservation], expected: int) -> tuple[JobPhase, str]:
    failed = [node for node in nodes if node.phase == "failed"]
    if failed:
        return "failed", failed[0].reason
    if len(nodes) < expected or any(node.phase == "pending" for node in nodes):
        return "pending", ""
    return ("complete", "") if all(node.phase == "succeeded" for node in nodes) else ("running", "")


def _time(written: str | None) -> datetime | None:
    return datetime.fromisoformat(written) if written else None
