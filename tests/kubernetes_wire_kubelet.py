"""Runs the pods of the fake cluster as processes of this machine, and reports on them as controllers and kubelet do."""

import os
import signal
import subprocess
import sys
import threading
from typing import Any

from kubernetes_wire import Wire
from kubernetes_wire_cluster import NAMESPACE, Cluster
from kubernetes_wire_schema import Document

# What no machine of the fake cluster has.
_CPUS = 64
_GRACE_SECONDS = 10


class Kubelet:
    """Starts a job's pods when the TrainJob appears, and ends them when it goes.

    Of images it knows "python", which is this interpreter; any other cannot be pulled. SIGKILL is the kernel short of
    memory.
    """

    def __init__(self, wire: Wire, cluster: Cluster) -> None:
        self._wire, self._cluster = wire, cluster
        # Pods of deleted jobs stay until their processes have ended.
        wire.grace_seconds = 3600
        self._closed = threading.Event()
        self._jobs: dict[str, list[tuple[Document, subprocess.Popen[bytes]]]] = {}
        self._threads = [threading.Thread(target=self._watch)]
        self._threads[0].start()

    def close(self) -> None:
        self._closed.set()
        self._threads[0].join()
        for name in list(self._jobs):
            self._end(name)
        for thread in self._threads[1:]:
            thread.join()

    def _watch(self) -> None:
        version = len(self._wire.history)
        while not self._closed.is_set():
            changes = self._wire.events_since(version)
            version += len(changes)
            for kind, plural, document in changes:
                if plural == "trainjobs" and kind == "ADDED" and not document["spec"].get("suspend"):
                    self._start(document)
                elif plural == "trainjobs" and (kind == "DELETED" or document["spec"].get("suspend")):
                    self._end(document["metadata"]["name"])

    def _start(self, job: Document) -> None:
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        pods = self._cluster.start(name, trainer.get("numNodes", 1))
        self._jobs[name] = []
        for index, pod in enumerate(pods):
            if int(trainer.get("resourcesPerNode", {}).get("requests", {}).get("cpu", 1)) > _CPUS:
                self._cluster.unschedulable(pod, "0/1 nodes are available: 1 Insufficient cpu.")
            elif not trainer["image"].startswith("python"):
                self._cluster.waiting(pod, "ImagePullBackOff", f'Back-off pulling image "{trainer["image"]}"')
            else:
                self._jobs[name].append((pod, self._run(pod, index, trainer)))
        if seconds := job["spec"].get("activeDeadlineSeconds"):
            self._spawn(self._expire, name, seconds)
        self._spawn(self._await_end, name)

    def _run(self, pod: Document, index: int, trainer: Document) -> subprocess.Popen[bytes]:
        given = {variable["name"]: variable["value"] for variable in trainer.get("env", [])}
        injected = {"PET_NNODES": str(trainer.get("numNodes", 1)), "PET_NODE_RANK": str(index)}
        arguments: list[str] = [*trainer.get("command", []), *trainer.get("args", [])][1:]
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=os.environ | given | injected,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._spawn(self._report, pod, process, self._cluster.running(pod))
        return process

    def _report(self, pod: Document, process: subprocess.Popen[bytes], log: Any) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            log.write(line.removesuffix(b"\n"), newline=line.endswith(b"\n"))
        code = process.wait()
        process.stdout.close()
        with self._wire.lock:
            if ("pods", NAMESPACE, pod["metadata"]["name"]) in self._wire.objects:
                reason = "OOMKilled" if code == -signal.SIGKILL else None
                self._cluster.terminated(pod, exit_code=128 - code if code < 0 else code, reason=reason)

    def _await_end(self, name: str) -> None:
        codes = [process.wait() for _, process in self._jobs[name]]
        with self._wire.lock:
            there = ("trainjobs", NAMESPACE, name) in self._wire.objects
            if not codes or not there or self._cluster.job(name).get("status"):
                return
        # The pods' own reports come first.
        while any(not self._ended(pod) for pod, _ in self._jobs[name]):
            self._closed.wait(0.01)
        with self._wire.lock:
            if any(codes):
                self._cluster.condition(name, "Failed", "FailedJobs", "jobset failed due to one or more job failures")
            else:
                self._cluster.condition(name, "Complete", "AllJobsCompleted", "jobset completed successfully")

    def _ended(self, pod: Document) -> bool:
        return pod["status"]["phase"] in ("Succeeded", "Failed") or not self._wire.find("pods", NAMESPACE)

    def _expire(self, name: str, seconds: float) -> None:
        if self._closed.wait(seconds) or ("trainjobs", NAMESPACE, name) not in self._wire.objects:
            return
        with self._wire.lock:
            if not self._cluster.job(name).get("status"):
                self._cluster.condition(name, "Failed", "DeadlineExceeded", "TrainJob exceeded its active deadline")
                self._wire.delete_children(NAMESPACE, name)
        self._end(name)

    def _end(self, name: str) -> None:
        """SIGTERM, after the grace period SIGKILL, and when the process has ended the pod goes."""
        for _, process in self._jobs.get(name, []):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(_GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        with self._wire.lock:
            for pod in self._wire.find("pods", NAMESPACE):
                metadata = pod["metadata"]
                if metadata["labels"]["jobset.sigs.k8s.io/jobset-name"] == name and "deletionTimestamp" in metadata:
                    self._wire.remove("pods", NAMESPACE, metadata["name"])

    def _spawn(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()
