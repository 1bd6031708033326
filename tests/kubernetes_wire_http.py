"""The HTTP of the fake Kubernetes API server: paths, selectors, streams, errors as Status objects, resets."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from kubernetes_wire_schema import KINDS, Document, RejectedError, admit_trainjob, prune, validate

if TYPE_CHECKING:
    from kubernetes_wire import Wire

_PATH = re.compile(
    r"/(?:api|apis)/(?P<version>(?:[a-z0-9.-]+/)?v[a-z0-9]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>log))?"
)


def serve(wire: Wire) -> ThreadingHTTPServer:
    """A server for the wire's objects on a free port, not yet running."""
    return _Server(("127.0.0.1", 0), type("_WireExchange", (_Exchange,), {"wire": wire}))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up when they please; that is no error here."""


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are sent one after the other: else the second would wait for the first to be acknowledged.
    disable_nagle_algorithm = True
    wire: Wire
    drops_answer = False

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_PATCH(self) -> None:
        self._serve(self._patch)

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is the base class's
        """Quiet."""

    def _serve(self, answer: Callable[[], None]) -> None:
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        # Read even where the answer is a fault: what is left unread would be taken for the next request.
        length = int(self.headers.get("Content-Length") or 0)
        self.body: Document = json.loads(self.rfile.read(length) or b"{}")
        with self.wire.lock:
            self.wire.requests.append(f"{self.command} {self.path}")
        fault = self.wire.take_fault(self.command, self.path)
        try:
            if fault and fault.status:
                raise RejectedError(fault.status, "Injected", fault.message)
            if fault and not fault.carried_out:
                self._reset()
            elif url.path == "/version":
                self._json(200, {"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
            else:
                self._route(url.path)
                self.drops_answer = fault is not None
                answer()
        except RejectedError as error:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": error.status}
            headers = fault.headers if fault else {}
            self._json(error.status, status | {"reason": error.reason, "message": error.message}, headers)

    def _route(self, path: str) -> None:
        matched = _PATH.fullmatch(path)
        if not matched or matched["plural"] not in KINDS:
            raise RejectedError(404, "NotFound", "the server could not find the requested resource")
        self.plural, self.namespace = matched["plural"], matched["namespace"] or ""
        self.name, self.sub = matched["name"], matched["sub"]
        if KINDS[self.plural][0] != matched["version"]:
            raise RejectedError(404, "NotFound", "the server could not find the requested resource")

    def _get(self) -> None:
        if self.sub:
            self._log()
        elif self.name:
            self._json(200, self._one())
        elif self.query.get("watch") in {"true", "True"}:
            self._watch()
        else:
            api_version, kind = KINDS[self.plural]
            items = [d for d in self.wire.find(self.plural, self.namespace) if self._selected(d)]
            metadata = {"resourceVersion": str(len(self.wire.history))}
            start = int(self.query.get("continue", 0))
            end = start + int(self.query.get("limit", len(items)))
            if end < len(items):
                metadata["continue"] = str(end)
            page = items[start:end]
            self._json(200, {"apiVersion": api_version, "kind": f"{kind}List", "metadata": metadata, "items": page})

    def _post(self) -> None:
        document = self.body
        document["metadata"]["namespace"] = self.namespace
        with self.wire.lock:
            stored = prune(document, self.wire.pruned) if self.plural == "trainjobs" else document
            validate(self.plural, stored)
            name = document["metadata"]["name"]
            if (self.plural, self.namespace, name) in self.wire.objects:
                raise RejectedError(409, "AlreadyExists", f'{self.plural} "{name}" already exists')
            if self.plural == "trainjobs":
                admit_trainjob(stored)
            stored = self.wire.put(self.plural, stored)
        self._json(201, stored)

    def _patch(self) -> None:
        if self.headers["Content-Type"] != "application/merge-patch+json":
            raise RejectedError(415, "UnsupportedMediaType", "only merge patches are spoken here")
        with self.wire.lock:
            stored = self.wire.put(self.plural, _merged(self._one(), self.body))
            if self.plural == "trainjobs" and stored["spec"].get("suspend"):
                self.wire.delete_pods(self.namespace, self.name)
        self._json(200, stored)

    def _delete(self) -> None:
        with self.wire.lock:
            uid = self._one()["metadata"]["uid"]
            if (wanted := self.body.get("preconditions", {}).get("uid", uid)) != uid:
                raise RejectedError(
                    409, "Conflict", f"Precondition failed: UID in precondition: {wanted}, UID in object meta: {uid}"
                )
            if self.plural == "trainjobs":
                self.wire.delete_job(self.namespace, self.name)
            else:
                self.wire.remove(self.plural, self.namespace, self.name)
        self._json(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _one(self) -> Document:
        for document in self.wire.find(self.plural, self.namespace):
            if document["metadata"]["name"] == self.name:
                return document
        raise RejectedError(404, "NotFound", f'{self.plural} "{self.name}" not found')

    def _selected(self, document: Document) -> bool:
        labels = document["metadata"].get("labels", {})
        for key, _, values in re.findall(
            r"([\w./-]+)\s*(=|in)\s*(\([^)]*\)|[^,]+)", self.query.get("labelSelector", "")
        ):
            if labels.get(key) not in re.split(r",\s*", values.strip("()")):
                return False
        for term in filter(None, self.query.get("fieldSelector", "").split(",")):
            path, _, wanted = term.partition("=")
            value: Any = document
            for part in path.split("."):
                value = value.get(part, {})
            if value != wanted:
                return False
        return True

    def _log(self) -> None:
        self._one()
        log = self.wire.logs.get((self.namespace, self.name))
        if log is None:
            raise RejectedError(
                400, "BadRequest", f'container "node" in pod "{self.name}" is waiting to start: ContainerCreating'
            )
        self._stream("text/plain", log.read(self.query))

    def _watch(self) -> None:
        def changes() -> Iterator[bytes]:
            version = int(self.query.get("resourceVersion") or 0)
            until = time.monotonic() + float(self.query.get("timeoutSeconds") or 30)
            while time.monotonic() < until:
                for kind, plural, document in self.wire.events_since(version):
                    version += 1
                    in_space = document["metadata"].get("namespace", "") == self.namespace
                    if plural == self.plural and in_space and self._selected(document):
                        yield json.dumps({"type": kind, "object": document}).encode() + b"\n"

        self._stream("application/json", changes())

    def _stream(self, content_type: str, chunks: Iterator[bytes | None]) -> None:
        """Send chunks as they come; None breaks the connection off."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for chunk in chunks:
            if chunk is None:
                self._reset()
                return
            if chunk:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(b"0\r\n\r\n")

    def _json(self, status: int, document: Document, headers: dict[str, str] | None = None) -> None:
        if self.drops_answer:
            self._reset()
            return
        body = json.dumps(document).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _reset(self) -> None:
        """Close so that the client's kernel reports a reset rather than an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.connection.close()


def _merged(document: Document, patch: Document) -> Document:
    """RFC 7396."""
    result = dict(document)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key) or {}, value) if isinstance(value, dict) else value
    return result
