"""What a Kubernetes API server with Kubeflow Trainer 2.3 accepts, judged by the models that the SDK publishes.

The models ignore unknown fields and check types; what they drop on the way through is what a server would prune.
"""

import copy
import re
from collections.abc import Iterator
from typing import Any

from kubeflow_trainer_api import models
from pydantic import BaseModel, ValidationError

Document = dict[str, Any]

KINDS = {
    "trainjobs": ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
    "trainingruntimes": ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"),
    "clustertrainingruntimes": ("trainer.kubeflow.org/v1alpha1", "ClusterTrainingRuntime"),
    "jobsets": ("jobset.x-k8s.io/v1alpha2", "JobSet"),
    "workloads": ("kueue.x-k8s.io/v1beta1", "Workload"),
    "jobs": ("batch/v1", "Job"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
    "configmaps": ("v1", "ConfigMap"),
}
MODELS: dict[str, type[BaseModel]] = {
    "trainjobs": models.TrainerV1alpha1TrainJob,
    "trainingruntimes": models.TrainerV1alpha1TrainingRuntime,
    "clustertrainingruntimes": models.TrainerV1alpha1ClusterTrainingRuntime,
    "jobsets": models.JobsetV1alpha2JobSet,
    "jobs": models.IoK8sApiBatchV1Job,
    "pods": models.IoK8sApiCoreV1Pod,
    "events": models.IoK8sApiCoreV1Event,
    "configmaps": models.IoK8sApiCoreV1ConfigMap,
}

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NODE_CONTAINERS = {"node", "dataset-initializer", "model-initializer"}


class RejectedError(Exception):
    """What the server answers instead: an HTTP status, a reason and a message as Kubernetes words them."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


def validate(plural: str, document: Document) -> None:
    """Check types, required fields and field names.

    Raises:
        RejectedError: 400 for an unknown field, as under strict field validation; 422 for a wrong type.
    """
    model = MODELS[plural]
    kind = model.__name__
    try:
        kept = model.from_dict(document).to_dict()  # type: ignore[attr-defined]
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RejectedError(422, "Invalid", f"{kind} is invalid: {fields}") from error
    if unknown := sorted(_lost(document, kept, "")):
        fields = ", ".join(f'unknown field "{field}"' for field in unknown)
        raise RejectedError(400, "BadRequest", f"strict decoding error: {fields}")


def admit_trainjob(job: dict[str, Any]) -> None:
    """The webhook's rules and the CRD's that the models do not state.

    Raises:
        RejectedError: 422 for names and lists, 403 for what the webhook denies.
    """
    name = job["metadata"].get("name", "")
    if not _DNS_LABEL.fullmatch(name) or len(name) > 63:
        invalid = f'TrainJob "{name}" is invalid: metadata.name: Invalid value: "{name}": must be a DNS label'
        raise RejectedError(422, "Invalid", invalid)
    spec = job["spec"]
    managers = [patch["manager"] for patch in spec.get("runtimePatches", [])]
    if len(managers) != len(set(managers)):
        raise RejectedError(422, "Invalid", "spec.runtimePatches[1]: Duplicate value: " + managers[0])
    reserved = [e["name"] for e in spec.get("trainer", {}).get("env", []) if e["name"].startswith("PET_")]
    if reserved:
        raise _denied(f"spec.trainer.env: Invalid value: {reserved}: must not have reserved envs")
    for patch in spec.get("runtimePatches", []):
        for container in _patched_containers(patch):
            if container["name"] in _NODE_CONTAINERS and container.get("env"):
                raise _denied(f"spec.runtimePatches: must not have envs for the {container['name']} container")


def prune(document: Document, fields: set[str]) -> Document:
    """A copy without ``fields`` (dotted paths): what a server stores that has never heard of them."""
    document = copy.deepcopy(document)
    for path in fields:
        *parents, last = path.split(".")
        holder: Any = document
        for parent in parents:
            holder = holder.get(parent, {}) if isinstance(holder, dict) else {}
        holder.pop(last, None)
    return document


def _denied(message: str) -> RejectedError:
    webhook = "validator.trainjob.trainer.kubeflow.org"
    return RejectedError(403, "Forbidden", f'admission webhook "{webhook}" denied the request: {message}')


def _patched_containers(patch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    template = patch.get("trainingRuntimeSpec", {}).get("template", {})
    for job in template.get("spec", {}).get("replicatedJobs", []):
        pod = job.get("template", {}).get("spec", {}).get("template", {}).get("spec", {})
        yield from [*pod.get("containers", []), *pod.get("initContainers", [])]


def _lost(sent: Any, kept: Any, path: str) -> Iterator[str]:
    if isinstance(sent, dict):
        for key, value in sent.items():
            if value is None:
                continue
            if not isinstance(kept, dict) or key not in kept:
                yield f"{path}{key}"
            else:
                yield from _lost(value, kept[key], f"{path}{key}.")
    elif isinstance(sent, list):
        for index, value in enumerate(sent):
            inner = kept[index] if isinstance(kept, list) and index < len(kept) else None
            yield from _lost(value, inner, f"{path.rstrip('.')}[{index}].")
