"""This machine as a place where TrainJobs run."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from forecast_assets.trainjob.errors import AlreadySubmittedError, JobDetails, NotSubmittedError
from forecast_assets.trainjob.local_jobs import JobExistsError, LocalJobs
from forecast_assets.trainjob.observation import JobObservation, LogChunk, Submission

if TYPE_CHECKING:
    from kubeflow.trainer import TrainerClient


class LocalPlatform:
    """Each node of a job is a process group on the present interpreter, in the environment that Kubeflow injects.

    Args:
        folder: each job has a folder of its own in it.
        num_proc_per_node: processes of a node whose trainer asks for neither CPUs nor GPUs.
    """

    namespace = "local"
    poll_seconds = 0.2

    def __init__(self, folder: Path, num_proc_per_node: int = 2) -> None:
        self._jobs = LocalJobs(folder)
        self._num_proc_per_node = num_proc_per_node

    @cached_property
    def trainer_client(self) -> "TrainerClient":
        """The SDK's client with `LocalBackend` behind it."""
        from kubeflow.trainer import LocalProcessBackendConfig, TrainerClient

        from forecast_assets.trainjob.local_backend import LocalBackend

        # Any configuration that needs no cluster: the backend it makes is replaced at once.
        client = TrainerClient(LocalProcessBackendConfig())
        client.backend = LocalBackend(self._jobs, self._num_proc_per_node)  # type: ignore[assignment]
        return client

    def submit(self, submission: Submission) -> None:
        """Start the job; see `JobPlatform.submit`."""
        from forecast_assets.trainjob.sdk_options import sdk_options

        details = JobDetails(name=submission.name, namespace=self.namespace)
        try:
            self.trainer_client.train(
                runtime=submission.runtime, trainer=submission.trainer, options=sdk_options(submission)
            )
        except JobExistsError:
            raise AlreadySubmittedError("a job of this name exists", details) from None
        except (ValueError, OSError) as error:
            raise NotSubmittedError(f"not started: {error}", details) from error

    def observe(self, name: str) -> JobObservation:
        """The job as it is now."""
        return self._jobs.observe(name)

    def read_log(self, name: str, node: int, position: str = "") -> LogChunk:
        """What a node has written after ``position``."""
        return self._jobs.read_log(name, node, position)

    def conclude(self, name: str, verdict: str) -> None:
        """Keep the client's verdict with the job."""
        self._jobs.conclude(name, verdict)

    def delete(self, name: str, uid: str | None = None) -> None:
        """End all processes of the job and remove its folder."""
        self._jobs.delete(name, uid)

    def list_jobs(self, labels: Mapping[str, str]) -> Sequence[JobObservation]:
        """The jobs that have all these labels, oldest first."""
        jobs = [self._jobs.observe(name) for name in self._jobs.names()]
        return [job for job in jobs if job.phase != "gone" and labels.items() <= dict(job.labels).items()]

    def find(self, name: str) -> Mapping[str, str]:
        """The job's folder."""
        return {"folder": str(self._jobs.folder(name))}
