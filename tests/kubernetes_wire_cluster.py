"""What Trainer, JobSet, the Job controller, the scheduler and the kubelet would do to the objects of the wire.

Labels, names and wordings are those of Kubernetes 1.36 with Kubeflow Trainer 2.3.
"""

import random
import string
from pathlib import Path
from typing import Any

import yaml
from kubernetes_wire import Wire, now
from kubernetes_wire_logs import WireLog
from kubernetes_wire_schema import Document

RUNTIME_FILE = Path(__file__).parents[1] / "deploy/base/training/runtime-cpu/runtime.yaml"
NAMESPACE = "forecasting"


class Cluster:
    """Plays the controllers of one namespace, one step at a time, as the test asks."""

    def __init__(self, wire: Wire, trainer_version: str = "v2.3.0") -> None:
        self.wire = wire
        runtime = yaml.safe_load(RUNTIME_FILE.read_text())
        runtime["metadata"]["namespace"] = NAMESPACE
        self.runtime = wire.put("trainingruntimes", runtime)["metadata"]["name"]
        self.public_config = wire.put(
            "configmaps",
            {
                "metadata": {"name": "kubeflow-trainer-public", "namespace": "kubeflow-system"},
                "data": {"kubeflow_trainer_version": trainer_version},
            },
        )

    def job(self, name: str) -> Document:
        return self.wire.objects["trainjobs", NAMESPACE, name]

    def add_job(self, name: str, nodes: int = 1, **metadata: Any) -> Document:
        """A TrainJob as if someone had submitted it."""
        reference = {"name": self.runtime, "kind": "TrainingRuntime", "apiGroup": "trainer.kubeflow.org"}
        return self.wire.put(
            "trainjobs",
            {
                "metadata": {"name": name, "namespace": NAMESPACE, **metadata},
                "spec": {"runtimeRef": reference, "trainer": {"numNodes": nodes}},
            },
        )

    def start(self, name: str, nodes: int = 1) -> list[Document]:
        """The JobSet, its Job and one Pending pod per node."""
        self.wire.put("jobsets", {"metadata": self._metadata(name, name), "spec": {}, "status": {"restarts": 0}})
        job = self._metadata(name, f"{name}-node-0")
        self.wire.put("jobs", {"metadata": job, "spec": self._job_spec()})
        return [self.pod(name, index) for index in range(nodes)]

    def pod(self, name: str, index: int = 0, attempt: int = 0, created: str | None = None) -> Document:
        """A Pending pod of a node."""
        suffix = "".join(random.choices(string.ascii_lowercase, k=5))
        metadata = self._metadata(name, f"{name}-node-0-{index}-{suffix}")
        metadata["labels"] |= {
            "batch.kubernetes.io/job-name": f"{name}-node-0",
            "batch.kubernetes.io/job-completion-index": str(index),
            "jobset.sigs.k8s.io/job-index": "0",
            "jobset.sigs.k8s.io/restart-attempt": str(attempt),
        }
        spec = self._job_spec()["template"]["spec"]
        metadata["creationTimestamp"] = created or now()
        return self.wire.put("pods", {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})

    def unschedulable(self, pod: Document, message: str) -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self._status(pod, phase="Pending", conditions=[condition])

    def waiting(self, pod: Document, reason: str, message: str = "") -> None:
        waiting = {"reason": reason} | ({"message": message} if message else {})
        self._status(pod, phase="Pending", conditions=[_scheduled()], containerStatuses=[_container(waiting=waiting)])

    def running(self, pod: Document, *, ready: bool = True) -> WireLog:
        """The container runs; what it writes goes to the log returned."""
        readiness = {"type": "Ready", "status": "True" if ready else "False"}
        container = _container(running={"startedAt": now()}, ready=ready)
        self._status(pod, phase="Running", conditions=[_scheduled(), readiness], containerStatuses=[container])
        return self.wire.logs.setdefault((NAMESPACE, pod["metadata"]["name"]), WireLog())

    def terminated(self, pod: Document, exit_code: int = 0, reason: str | None = None) -> None:
        """The container has ended, and its log with it."""
        self.wire.logs.setdefault((NAMESPACE, pod["metadata"]["name"]), WireLog()).close()
        reason = reason or ("Error" if exit_code else "Completed")
        state = {"exitCode": exit_code, "reason": reason, "startedAt": now(), "finishedAt": now()}
        container = _container(terminated=state)
        self._status(pod, phase="Failed" if exit_code else "Succeeded", containerStatuses=[container])

    def crash_looping(self, pod: Document, exit_code: int, restarts: int) -> None:
        """The kubelet has started the container again, and waits before the next time."""
        last = {"exitCode": exit_code, "reason": "Error", "startedAt": now(), "finishedAt": now()}
        container = _container(waiting={"reason": "CrashLoopBackOff", "message": "back-off 20s"})
        container |= {"restartCount": restarts, "lastState": {"terminated": last}}
        self._status(pod, phase="Running", conditions=[_scheduled()], containerStatuses=[container])

    def restarts_allowed(self, name: str, restarts: int, rules: list[Document] | None = None) -> None:
        """The JobSet's failure policy; its Job replaces no pods."""
        policy = {"maxRestarts": restarts} | ({"rules": rules} if rules else {})
        self.wire.objects["jobsets", NAMESPACE, name]["spec"]["failurePolicy"] = policy
        self.wire.objects["jobs", NAMESPACE, f"{name}-node-0"]["spec"] = {"backoffLimit": 0}

    def job_failed(self, name: str, reason: str) -> None:
        """The Job controller gives the job up."""
        failed = {"type": "Failed", "status": "True", "reason": reason, "lastTransitionTime": now()}
        self.wire.objects["jobs", NAMESPACE, f"{name}-node-0"]["status"] = {"conditions": [failed]}

    def silence_machine(self, pod: Document, since: str | None = None) -> None:
        """The pod's machine has stopped answering: the node controller says so."""
        for condition in pod["status"]["conditions"]:
            if condition["type"] == "Ready":
                condition |= {"status": "False", "lastTransitionTime": since or now()}
        self.wire.put("pods", pod)
        self.event("Pod", pod["metadata"]["name"], "NodeNotReady", "Node is not ready")

    def lose_machine(self, pod: Document) -> None:
        """Five minutes later: the pod is to be deleted, but nobody carries that out."""
        message = "Taint manager: deleting due to NoExecute taint"
        disruption = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
        pod["status"]["conditions"].append(disruption | {"message": message})
        pod["metadata"]["deletionTimestamp"] = now()
        self.wire.put("pods", pod)

    def condition(self, name: str, kind: str, reason: str, message: str = "") -> None:
        """Set a condition of the TrainJob to True."""
        job = self.job(name)
        conditions = [c for c in job.setdefault("status", {}).get("conditions", []) if c["type"] != kind]
        conditions.append(
            {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        )
        job["status"]["conditions"] = conditions
        self.wire.put("trainjobs", job)

    def hold(self, name: str) -> None:
        """What Kueue does to a job that it has no room for."""
        self.job(name)["spec"]["suspend"] = True
        self.condition(name, "Suspended", "Suspended", "TrainJob is suspended")

    def admit(self, name: str) -> None:
        """Kueue has room for the job."""
        self.job(name)["spec"]["suspend"] = False
        self.job(name)["status"]["conditions"] = []

    def restart(self, name: str, nodes: int = 1) -> list[Document]:
        """What JobSet's failurePolicy does: all pods go, all come anew."""
        jobset = self.wire.objects["jobsets", NAMESPACE, name]
        jobset["status"] = {"restarts": jobset["status"]["restarts"] + 1}
        for pod in self.wire.find("pods", NAMESPACE):
            if pod["metadata"]["labels"]["jobset.sigs.k8s.io/jobset-name"] == name:
                self.wire.remove("pods", NAMESPACE, pod["metadata"]["name"])
        return [self.pod(name, index, attempt=jobset["status"]["restarts"]) for index in range(nodes)]

    def event(self, kind: str, name: str, reason: str, message: str, **times: Any) -> None:
        """An event; ``times`` are its fields of time, by default a firstTimestamp and lastTimestamp of now."""
        number = len(self.wire.find("events", NAMESPACE))
        self.wire.put(
            "events",
            {
                "metadata": {"name": f"{name}.{number:x}", "namespace": NAMESPACE},
                "involvedObject": {"kind": kind, "name": name, "namespace": NAMESPACE},
                "reason": reason,
                "message": message,
                "type": "Warning",
                **(times or {"firstTimestamp": now(), "lastTimestamp": now(), "count": 1}),
            },
        )

    def _job_spec(self) -> Document:
        runtime = self.wire.objects["trainingruntimes", NAMESPACE, self.runtime]
        spec: Document = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
        return spec

    def _metadata(self, job: str, name: str) -> Document:
        labels = {"jobset.sigs.k8s.io/jobset-name": job, "jobset.sigs.k8s.io/replicatedjob-name": "node"}
        return {"name": name, "namespace": NAMESPACE, "labels": labels}

    def _status(self, pod: Document, **status: Any) -> None:
        # Updated in place: the tests hold on to the pods.
        pod["status"] = status
        self.wire.put("pods", pod)


def _scheduled() -> Document:
    return {"type": "PodScheduled", "status": "True"}


def _container(*, ready: bool = False, **state: Any) -> Document:
    status = {"name": "node", "image": "trainer", "imageID": "", "ready": ready, "restartCount": 0}
    return status | {"state": state}
