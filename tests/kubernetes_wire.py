"""A small HTTP server that speaks the part of the Kubernetes API that the Kubeflow SDK and our observer use.

The real client talks to it through a kubeconfig; nothing is patched. Writes are validated (``kubernetes_wire_schema``),
faults are injected on the wire. HTTP itself is in ``kubernetes_wire_http``; what controllers would do to the objects is
in ``kubernetes_wire_cluster``.
"""

import re
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml
from kubernetes_wire_http import serve
from kubernetes_wire_logs import WireLog
from kubernetes_wire_schema import KINDS, Document, validate


@dataclass
class Fault:
    """What the next ``times`` requests that match meet: an answer of ``status``, or without one a reset connection."""

    method: str
    path: str
    status: int | None = None
    message: str = "injected"
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    # The reset comes when the request has been carried out, instead of before.
    carried_out: bool = False


class Wire:
    """The server and its objects. ``requests`` records every request as "METHOD path?query"."""

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())
        self.objects: dict[tuple[str, str, str], Document] = {}
        self.logs: dict[tuple[str, str], WireLog] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.pruned: set[str] = set()
        # Pods outlive a deleted job by this long, as they do while they run out their grace period.
        self.grace_seconds = 0.0
        self.history: list[tuple[str, str, Document]] = []
        self._server = serve(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        for log in self.logs.values():
            log.close()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def write_kubeconfig(self, path: Path, namespace: str) -> Path:
        context = {"cluster": "wire", "user": "wire", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "wire", "cluster": {"server": self.url}}],
            "users": [{"name": "wire", "user": {"token": "a-token"}}],
            "contexts": [{"name": "wire", "context": context}],
            "current-context": "wire",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def put(self, plural: str, document: Document) -> Document:
        """Create or replace an object, validated, on the server's side."""
        if plural != "workloads":
            validate(plural, document)
        api_version, kind = KINDS[plural]
        with self.lock:
            metadata = document.setdefault("metadata", {})
            key = (plural, metadata.get("namespace", ""), metadata["name"])
            document |= {"apiVersion": api_version, "kind": kind}
            metadata.setdefault("uid", str(uuid.uuid4()))
            metadata.setdefault("creationTimestamp", now())
            metadata["resourceVersion"] = str(len(self.history) + 1)
            self._record("MODIFIED" if key in self.objects else "ADDED", plural, document)
            self.objects[key] = document
        return document

    def remove(self, plural: str, namespace: str, name: str) -> None:
        with self.lock:
            self._record("DELETED", plural, self.objects.pop((plural, namespace, name)))

    def find(self, plural: str, namespace: str | None) -> list[Document]:
        with self.lock:
            self._end_expired_pods()
            return [
                d for (p, space, _), d in self.objects.items() if p == plural and (not namespace or space == namespace)
            ]

    def delete_job(self, namespace: str, name: str) -> None:
        """Delete a TrainJob with everything it owns; its pods go when their grace has passed."""
        with self.lock:
            self.remove("trainjobs", namespace, name)
            self.delete_children(namespace, name)

    def delete_children(self, namespace: str, name: str) -> None:
        """Delete the JobSet and its Job, and the pods when their grace has passed."""
        with self.lock:
            for plural, child in (("jobsets", name), ("jobs", f"{name}-node-0")):
                if (plural, namespace, child) in self.objects:
                    self.remove(plural, namespace, child)
            self.delete_pods(namespace, name)

    def delete_pods(self, namespace: str, name: str) -> None:
        """Mark a job's pods for deletion; they go when their grace has passed."""
        with self.lock:
            for pod in self.find("pods", namespace):
                metadata = pod["metadata"]
                if metadata["labels"]["jobset.sigs.k8s.io/jobset-name"] == name:
                    metadata |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": 30}
                    metadata["annotations"] = {"gone-at": str(time.monotonic() + self.grace_seconds)}
            self._end_expired_pods()

    def events_since(self, version: int) -> list[tuple[str, str, Document]]:
        """The watch history after a resource version; waits a little for something to come."""
        with self.lock:
            if len(self.history) <= version:
                self.lock.wait(timeout=0.05)
            return self.history[version:]

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def _record(self, kind: str, plural: str, document: Document) -> None:
        self.history.append((kind, plural, document))
        self.lock.notify_all()

    def _end_expired_pods(self) -> None:
        for (plural, namespace, name), document in list(self.objects.items()):
            gone_at = document["metadata"].get("annotations", {}).get("gone-at")
            if plural == "pods" and gone_at and time.monotonic() >= float(gone_at):
                self.remove("pods", namespace, name)
                self.logs.pop((namespace, name), None)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
