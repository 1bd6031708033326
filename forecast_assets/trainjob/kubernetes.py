"""TrainJobs on Kubernetes: submitted through the Kubeflow SDK, observed through the API behind it.

The SDK picks pods by name, hides events and logs of pending pods, and knows no failure before the TrainJob's own; what
it leaves out is read here from pods, events, Jobs and JobSets.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from forecast_assets.trainjob.errors import (
    AlreadySubmittedError,
    FieldsDroppedError,
    JobDetails,
    NotSubmittedError,
    TrainJobError,
)
from forecast_assets.trainjob.kubernetes_api import BATCH, CORE, JOBSET, KUEUE, TRAINER, KubernetesApi
from forecast_assets.trainjob.kubernetes_creation import Creation
from forecast_assets.trainjob.kubernetes_jobs import JobDocuments, has_final_condition, observe
from forecast_assets.trainjob.kubernetes_log import LogPosition
from forecast_assets.trainjob.kubernetes_pods import (
    CONTAINER,
    Document,
    has_ended,
    is_lost,
    is_ready,
    never_ends,
    nodes_of,
)
from forecast_assets.trainjob.kubernetes_stored import api_version, dropped_fields, versions_agree
from forecast_assets.trainjob.observation import VERDICT_ANNOTATION, JobObservation, LogChunk, Submission

if TYPE_CHECKING:
    from kubeflow.trainer import TrainerClient

_logger = logging.getLogger(__name__)

JOB_LABEL = "jobset.sigs.k8s.io/jobset-name"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"


@dataclass(kw_only=True)
class KubernetesPlatform:
    """TrainJobs in one namespace of a cluster with Kubeflow Trainer. See `JobPlatform` for the methods.

    Attributes:
        namespace: of the jobs.
        runtime: the training runtime of jobs that name none.
        kubeconfig, context: how to reach the cluster; by default the pod's service account, or the usual kubeconfig.
        queue: Kueue's local queue, and ``priority``, its workload priority class; both become labels.
        poll_seconds: how often to look.
        node_lost_seconds: how long a machine may be silent before its node counts as lost.
        delete_seconds: how long the pods of a deleted job may take to end; at least their grace period.
    """

    namespace: str
    runtime: str = "torch-distributed"
    kubeconfig: str | None = None
    context: str | None = None
    queue: str | None = None
    priority: str | None = None
    poll_seconds: float = 2.0
    node_lost_seconds: float = 120.0
    delete_seconds: float = 300.0

    @cached_property
    def trainer_client(self) -> "TrainerClient":
        """The SDK's client for this namespace.

        Raises:
            NotSubmittedError: no cluster is configured.
        """
        from kubeflow.common.types import KubernetesBackendConfig
        from kubeflow.trainer import TrainerClient
        from kubernetes.config import ConfigException

        config = KubernetesBackendConfig(namespace=self.namespace, config_file=self.kubeconfig, context=self.context)
        try:
            return TrainerClient(config)
        except ConfigException as error:
            hint = f"no cluster is configured: {error}; set KUBECONFIG, or give the platform a kubeconfig and context"
            raise NotSubmittedError(hint, self._details("")) from error

    @cached_property
    def _api(self) -> KubernetesApi:
        return KubernetesApi(self.trainer_client.backend.core_api.api_client, self.namespace)

    def server_version(self) -> str | None:
        """The version of Kubeflow Trainer in the cluster; None where it does not say or may not be asked."""
        system = os.environ.get("KUBEFLOW_SYSTEM_NAMESPACE", "kubeflow-system")
        try:
            public = self._api.get(CORE, "configmaps", "kubeflow-trainer-public", job="", namespace=system)
        except TrainJobError:
            return None
        return (public or {}).get("data", {}).get("kubeflow_trainer_version")

    def submit(self, submission: Submission) -> None:
        name = submission.name
        self._warn_of_older_server()
        former = self._trainjob(name)
        if former is None or "deletionTimestamp" in former["metadata"]:
            # Pods of a deleted job of the same name would meet the new one's.
            self._await_gone(name, _uid(former))
        creation = Creation(self.trainer_client.backend, self._details(name))
        try:
            creation.carry_out(submission, submission.runtime or self.runtime, self._kueue_labels())
        except AlreadySubmittedError:
            if self._is_ours(submission):
                # An earlier attempt to submit it was carried out, but its answer was lost.
                self._check_stored(name, creation.sent, self._trainjob(name))
            raise
        self._check_stored(name, creation.sent, creation.stored)

    def observe(self, name: str) -> JobObservation:
        trainjob = self._trainjob(name)
        if trainjob is None:
            return JobObservation(name=name, phase="gone")
        pods = self._pods(name)
        quiet = bool(pods) and all(is_ready(pod) for pod in pods)
        documents = JobDocuments(
            trainjob=trainjob,
            pods=pods,
            jobset=self._api.get(JOBSET, "jobsets", name, job=name) if not quiet else None,
            jobs=self._api.list(BATCH, "jobs", job=name, labels={JOB_LABEL: name}) if not quiet else (),
            events=self._api.list(CORE, "events", job=name) if not quiet else (),
            workloads=self._workloads(trainjob),
        )
        return observe(documents, timedelta(seconds=self.node_lost_seconds))

    def read_log(self, name: str, node: int, position: str = "") -> LogChunk:
        at = LogPosition.parse(position)
        lines: list[str] = []
        for pod in at.onwards(pod for nodes in nodes_of(self._pods(name)) if nodes.index == node for pod in nodes.pods):
            at = at.in_pod(pod)
            content = None if is_lost(pod) else self._api.log(at.pod, CONTAINER, job=name, since=at.since_time)
            if content is not None:
                new, at = at.advance(content, ended=has_ended(pod))
                lines += new
        return LogChunk(lines=lines, position=at.dump())

    def conclude(self, name: str, verdict: str) -> None:
        """Also stops a job that has failed though Kubernetes would still go on with it; its pods then go."""
        patch: Document = {"metadata": {"annotations": {VERDICT_ANNOTATION: verdict}}}
        trainjob = self._trainjob(name)
        goes_on = trainjob is not None and not has_final_condition(trainjob)
        if goes_on:
            patch["spec"] = {"suspend": True}
        self._api.merge(TRAINER, "trainjobs", name, patch, job=name)
        if goes_on:
            self._await_no_pods(name)

    def delete(self, name: str, uid: str | None = None) -> None:
        uid = uid or _uid(self._trainjob(name))
        if uid:
            self._api.delete(TRAINER, "trainjobs", name, uid, job=name)
        self._await_gone(name, uid)

    def list_jobs(self, labels: Mapping[str, str]) -> Sequence[JobObservation]:
        jobs = self._api.list(TRAINER, "trainjobs", job="*", labels=labels)
        seen = [observe(JobDocuments(trainjob=job), timedelta(seconds=self.node_lost_seconds)) for job in jobs]
        return sorted(seen, key=lambda job: (job.created_at is not None, job.created_at, job.name))

    def find(self, name: str) -> Mapping[str, str]:
        kubectl = f"kubectl -n {self.namespace}"
        return {
            "namespace": self.namespace,
            "trainjob": name,
            "kubectl": f"{kubectl} describe trainjob {name}",
            "pods": f"{kubectl} get pods -l {JOB_LABEL}={name}",
            "logs": f"{kubectl} logs -l {JOB_LABEL}={name} --prefix --tail=-1",
        }

    def _kueue_labels(self) -> dict[str, str]:
        labels = {QUEUE_LABEL: self.queue, PRIORITY_LABEL: self.priority}
        return {label: value for label, value in labels.items() if value}

    def _check_stored(self, name: str, sent: Document | None, stored: Document | None) -> None:
        if stored is not None and (dropped := list(dropped_fields(sent, stored))):
            self.delete(name, _uid(stored))
            message = (
                f"the server dropped {', '.join(dropped)}; its Kubeflow Trainer is "
                f"{self.server_version() or 'of unknown version'}, the SDK speaks the API of {api_version()}: "
                "update the server, or do without these fields"
            )
            raise FieldsDroppedError(message, self._details(name))

    def _is_ours(self, submission: Submission) -> bool:
        labels = ((self._trainjob(submission.name) or {}).get("metadata") or {}).get("labels") or {}
        return submission.labels.items() <= labels.items()

    def _warn_of_older_server(self) -> None:
        server = self.server_version()
        if not versions_agree(server):
            _logger.warning(
                "Kubeflow Trainer %s is older than the SDK's API, %s: jobs are compared as stored",
                server,
                api_version(),
            )

    def _await_gone(self, name: str, uid: str | None) -> None:
        """Until no pod writes any more, or somebody has started another job of this name, who has waited for that."""

        def gone() -> bool:
            there = self._trainjob(name)
            return not self._writing_pods(name) if there is None else _uid(there) != uid

        self._await(name, gone)

    def _await_no_pods(self, name: str) -> None:
        self._await(name, lambda: not self._writing_pods(name))

    def _await(self, name: str, ended: Callable[[], bool]) -> None:
        until = time.monotonic() + self.delete_seconds
        while not ended():
            if time.monotonic() > until:
                places = ", ".join(pod["metadata"]["name"] for pod in self._pods(name)) or "none"
                message = f"{self.delete_seconds:.0f} s after its deletion it has not ended; its pods: {places}"
                raise TrainJobError(message, self._details(name))
            time.sleep(min(0.5, self.poll_seconds))

    def _writing_pods(self, name: str) -> list[Document]:
        return [pod for pod in self._pods(name) if not has_ended(pod) and not never_ends(pod)]

    def _trainjob(self, name: str) -> Document | None:
        return self._api.get(TRAINER, "trainjobs", name, job=name)

    def _pods(self, name: str) -> Sequence[Document]:
        return self._api.list(CORE, "pods", job=name, labels={JOB_LABEL: name})

    def _workloads(self, trainjob: Document) -> Sequence[Document]:
        if not trainjob["spec"].get("suspend"):
            return ()
        try:
            return self._api.list(KUEUE, "workloads", job=trainjob["metadata"]["name"])
        except TrainJobError:
            return ()

    def _details(self, name: str) -> JobDetails:
        return JobDetails(name=name, namespace=self.namespace, find=self.find(name)["kubectl"] if name else "")


def _uid(trainjob: Document | None) -> str | None:
    return trainjob["metadata"]["uid"] if trainjob is not None else None
