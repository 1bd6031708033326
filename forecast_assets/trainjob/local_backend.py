"""The Kubeflow SDK's backend for this machine: each node is a process group on the present interpreter.

The SDK's own LocalProcessBackend makes a virtual environment for each job, runs one node, and forgets its jobs with
the process that started them. Here a job has nodes, the environment that Kubeflow Trainer injects, and a folder.

Imported inside functions only: the SDK takes more than a second to load.
"""

import inspect
import os
import re
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from kubeflow.trainer import CustomTrainer, CustomTrainerContainer, Runtime, RuntimeTrainer
from kubeflow.trainer.backends.base import RuntimeBackend
from kubeflow.trainer.constants import constants
from kubeflow.trainer.options import ActiveDeadlineSeconds, Annotations, Labels, Name, TrainerArgs, TrainerCommand
from kubeflow.trainer.types import types

from forecast_assets.trainjob.local_jobs import LocalJobs
from forecast_assets.trainjob.observation import JobObservation, JobPhase, NodePhase

RUNTIME = constants.DEFAULT_TRAINING_RUNTIME
_FUNCTION_FILE = "train.py"
_FOLLOW_SECONDS = 0.1
_OPTION_FIELDS: Mapping[type, str] = {
    Name: "name",
    Labels: "labels",
    Annotations: "annotations",
    TrainerCommand: "command",
    TrainerArgs: "args",
    ActiveDeadlineSeconds: "seconds",
}
_STATUS: Mapping[JobPhase, str] = {
    "pending": constants.TRAINJOB_CREATED,
    "running": constants.TRAINJOB_RUNNING,
    "complete": constants.TRAINJOB_COMPLETE,
    "failed": constants.TRAINJOB_FAILED,
}
_STEP_STATUS: Mapping[NodePhase, str] = {
    "pending": constants.POD_PENDING,
    "running": constants.TRAINJOB_RUNNING,
    "succeeded": constants.POD_SUCCEEDED,
    "failed": "Failed",
}


class LocalBackend(RuntimeBackend):
    """Jobs of `LocalJobs` as the SDK sees jobs: ``TrainerClient.backend`` may be set to it.

    Args:
        jobs: where the jobs are kept.
        num_proc_per_node: processes of a node whose trainer asks for neither CPUs nor GPUs.
    """

    def __init__(self, jobs: LocalJobs, num_proc_per_node: int) -> None:
        self._jobs = jobs
        self._num_proc_per_node = num_proc_per_node

    def list_runtimes(self) -> list[Runtime]:
        """The one that there is: torchrun of this interpreter."""
        trainer = RuntimeTrainer(
            trainer_type=types.TrainerType.CUSTOM_TRAINER,
            framework="torch",
            image=f"python {sys.version.split()[0]} of this machine",
            device="cpu",
            device_count=str(self._num_proc_per_node),
        )
        trainer.set_command(("torchrun",))
        return [Runtime(name=RUNTIME, trainer=trainer, kind=types.RuntimeKind.CLUSTER_TRAINING_RUNTIME)]

    def get_runtime(self, name: str) -> Runtime:
        """The runtime ``name``; ValueError for another one than the one there is."""
        for runtime in self.list_runtimes():
            if runtime.name == name:
                return runtime
        raise ValueError(f"there is no runtime {name!r} on this machine, only {RUNTIME!r}")

    def get_runtime_packages(self, runtime: Runtime) -> None:  # noqa: ARG002 - there is only one
        """Print the packages of this interpreter."""
        installed = sorted(f"{each.name}=={each.version}" for each in metadata.distributions())
        sys.stdout.write(f"Python: {sys.version}\n" + "\n".join(installed) + "\n")

    def train(
        self,
        runtime: str | Runtime | None = None,
        initializer: types.Initializer | None = None,
        trainer: Any = None,
        options: list[Any] | None = None,
    ) -> str:
        """Start a job; the name is returned.

        Of the options, Name, Labels, Annotations, TrainerCommand, TrainerArgs and ActiveDeadlineSeconds mean what
        they mean on a cluster.

        Raises:
            ValueError: something is asked for that cannot be done on this machine.
            JobExistsError: there is a job of this name.
        """
        if initializer is not None:
            raise ValueError(
                "initializers need a cluster: on this machine, data and models are read from where they are"
            )
        self.get_runtime(runtime.name if isinstance(runtime, Runtime) else runtime or RUNTIME)
        said = _read_options(options or ())
        name = said.get("name") or f"job-{uuid.uuid4().hex[: constants.JOB_NAME_UUID_LENGTH]}"
        command, files = self._command(name, trainer, said)
        environment = _environment(trainer)
        self._jobs.create(
            name,
            {
                "runtime": RUNTIME,
                "command": command,
                "num_nodes": trainer.num_nodes or 1,
                "num_proc_per_node": self._processes(trainer.resources_per_node or {}),
                "working_directory": str(Path.cwd()),
                "deadline_seconds": said.get("seconds"),
                "labels": said.get("labels", {}),
                "annotations": said.get("annotations", {}),
            },
            environment,
            files,
        )
        return name

    def list_jobs(self, runtime: Runtime | None = None) -> list[types.TrainJob]:
        """All jobs, oldest first."""
        if runtime is not None and runtime.name != RUNTIME:
            return []
        observed = [self._jobs.observe(name) for name in self._jobs.names()]
        return [self._train_job(job) for job in observed if job.phase != "gone"]

    def get_job(self, name: str) -> types.TrainJob:
        """The job, with a step for each node; RuntimeError if there is none, as on a cluster."""
        return self._train_job(self._existing(name))

    def get_job_logs(self, name: str, follow: bool = False, step: str = constants.NODE + "-0") -> Iterator[str]:
        """Lines of the step "node-N"; with ``follow``, also those to come, until the job has ended."""
        node = int(step.removeprefix(f"{constants.NODE}-"))
        position = ""
        while True:
            ended = self._existing(name).ended
            chunk = self._jobs.read_log(name, node, position)
            yield from chunk.lines
            if not chunk.lines and (ended or not follow):
                return
            if not chunk.lines:
                time.sleep(_FOLLOW_SECONDS)
            position = chunk.position

    def get_job_events(self, name: str) -> list[types.Event]:
        """What has happened to the job and its nodes, oldest first."""
        return [
            types.Event(
                involved_object_kind=constants.TRAINJOB_KIND if event.subject == "job" else "Pod",
                involved_object_name=name if event.subject == "job" else f"{name}-{event.subject}",
                message=event.message,
                reason=event.reason,
                event_time=event.time,
            )
            for event in self._existing(name).events
        ]

    def wait_for_job_status(
        self,
        name: str,
        status: set[str] = {constants.TRAINJOB_COMPLETE},  # noqa: B006 - the SDK's signature
        timeout: int = 600,
        polling_interval: int = 2,
        callbacks: list[Callable[[types.TrainJob], None]] | None = None,
    ) -> types.TrainJob:
        """Wait for one of ``status``. RuntimeError if the job fails and that is not one; TimeoutError, in seconds."""
        deadline = time.monotonic() + timeout
        while True:
            job = self.get_job(name)
            for callback in callbacks or ():
                callback(job)
            if job.status in status:
                return job
            if job.status == constants.TRAINJOB_FAILED:
                raise RuntimeError(f"TrainJob {name} is Failed")
            if time.monotonic() > deadline:
                raise TimeoutError(f"TrainJob {name} is {job.status} after {timeout} s, and not {' or '.join(status)}")
            time.sleep(polling_interval)

    def delete_job(self, name: str) -> None:
        """End the job's processes and forget it; RuntimeError if there is none."""
        self._existing(name)
        self._jobs.delete(name)

    def _existing(self, name: str) -> JobObservation:
        job = self._jobs.observe(name)
        if job.phase == "gone":
            raise RuntimeError(f"Failed to get TrainJob: {name}: there is no such job in {self._jobs.root}")
        return job

    def _train_job(self, job: JobObservation) -> types.TrainJob:
        submitted = self._jobs.submitted(job.name)
        assert job.created_at is not None  # noqa: S101 - only a job that is gone has no time
        return types.TrainJob(
            name=job.name,
            runtime=self.get_runtime(submitted["runtime"]),
            steps=[
                types.Step(
                    name=f"{constants.NODE}-{node.index}",
                    status=_STEP_STATUS.get(node.phase, node.phase),
                    pod_name=f"{job.name}-{constants.NODE}-{node.index}",
                    device="cpu",
                    device_count=str(submitted["num_proc_per_node"]),
                )
                for node in job.nodes
            ],
            num_nodes=submitted["num_nodes"],
            creation_timestamp=job.created_at,
            status=_STATUS[job.phase],
        )

    def _command(self, name: str, trainer: Any, said: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
        """What every node runs, and the files that it needs."""
        if isinstance(trainer, CustomTrainerContainer):
            if not said.get("command"):
                raise ValueError(
                    "a CustomTrainerContainer without a command runs what its image says, and there is no image on "
                    "this machine: pass the command, such as ['torchrun']"
                )
            return [*_on_this_interpreter(said["command"]), *said.get("args", ())], {}
        if isinstance(trainer, CustomTrainer):
            _require_installed(trainer.packages_to_install or ())
            script = str(self._jobs.folder(name) / _FUNCTION_FILE)
            return [*_on_this_interpreter(["torchrun"]), script], {_FUNCTION_FILE: _script(trainer)}
        raise ValueError(
            f"{type(trainer).__name__} needs the image of its training runtime, so it runs on a cluster; on this "
            "machine, CustomTrainer and CustomTrainerContainer do"
        )

    def _processes(self, resources: Mapping[str, Any]) -> int:
        # As Kubeflow Trainer counts: one per GPU, without GPUs one per CPU.
        return int(resources.get("gpu") or resources.get("cpu") or self._num_proc_per_node)


def _read_options(options: Sequence[Any]) -> dict[str, Any]:
    """What the SDK's options say. They are not called: called, most of them refuse every backend but Kubernetes."""
    said: dict[str, Any] = {}
    for option in options:
        field = _OPTION_FIELDS.get(type(option))
        if field is None:
            raise ValueError(f"the option {type(option).__name__} is about pods: it needs a cluster")
        said[field] = getattr(option, field)
    return said


def _environment(trainer: Any) -> dict[str, str]:
    environment: dict[str, str] = trainer.env or {}
    if reserved := sorted(name for name in environment if name.startswith("PET_")):
        raise ValueError(f"{', '.join(reserved)} cannot be set: Kubeflow Trainer sets and reserves PET_*")
    # What torchrun sets for several processes; for one, more threads than that cost more than they bring here.
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"), **environment}


def _on_this_interpreter(command: Sequence[str]) -> list[str]:
    program, *rest = command
    if program == "torchrun":
        return [sys.executable, "-m", "torch.distributed.run", *rest]
    if program in ("python", "python3"):
        return [sys.executable, *rest]
    return list(command)


def _script(trainer: CustomTrainer) -> str:
    """The function's source and its call, as the SDK sends them to a cluster."""
    source = textwrap.dedent(inspect.getsource(trainer.func))
    arguments = "" if trainer.func_args is None else f"**{trainer.func_args!r}"
    return f"{source}\n{trainer.func.__name__}({arguments})\n"


def _require_installed(requirements: Sequence[str]) -> None:
    missing = []
    for requirement in requirements:
        try:
            metadata.distribution(re.split(r"[\s\[<>=!~;@]", requirement, maxsplit=1)[0])
        except metadata.PackageNotFoundError:
            missing.append(requirement)
    if missing:
        raise ValueError(f"on this machine nothing is installed for a job: pip install {' '.join(missing)}")
