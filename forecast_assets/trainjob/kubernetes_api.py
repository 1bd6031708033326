"""Requests to the Kubernetes API as plain documents, with its errors as ours.

Documents instead of the client's typed models: those refuse what they do not expect, and lose fields they do not know.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from forecast_assets.trainjob.errors import (
    AlreadySubmittedError,
    ApiUnavailableError,
    JobDetails,
    RejectedError,
    TrainJobError,
)

Document = dict[str, Any]

TRAINER = "apis/trainer.kubeflow.org/v1alpha1"
JOBSET = "apis/jobset.x-k8s.io/v1alpha2"
KUEUE = "apis/kueue.x-k8s.io/v1beta1"
BATCH = "apis/batch/v1"
CORE = "api/v1"

# Connecting, and waiting for the next bytes, in seconds.
_TIMEOUT = (10, 60)
_PAGE = 500
_CONFLICT = 409
_GONE = 410
_TOO_MANY_REQUESTS = 429


class KubernetesApi:
    """Reads, patches and deletes objects of one namespace.

    All methods raise ApiUnavailableError for what is worth asking again, and RejectedError for what is not; ``job`` is
    the job that such an error is to name. Resets and Retry-After are met by the client below, three times a request.

    Args:
        api_client: a ``kubernetes.client.ApiClient``.
        namespace: of all objects, unless a method says otherwise.
    """

    def __init__(self, api_client: Any, namespace: str) -> None:
        self._client = api_client
        self.namespace = namespace

    def get(self, group: str, plural: str, name: str, *, job: str, namespace: str | None = None) -> Document | None:
        """An object; None where there is none."""
        path = self._path(group, plural, namespace) + "/" + quote(name)
        document: Document | None = self._request("GET", path, job)
        return document

    def list(self, group: str, plural: str, *, job: str, labels: Mapping[str, str] | None = None) -> Sequence[Document]:
        """All objects with these labels; none where the server does not know the kind."""
        query = {}
        if labels:
            query["labelSelector"] = ",".join(f"{key}={value}" for key, value in labels.items())
        try:
            return self._listed(group, plural, job, {**query, "limit": str(_PAGE)})
        except ApiUnavailableError as error:
            if getattr(error.__cause__, "status", None) != _GONE:
                raise
            # The server has forgotten the state that the pages before were of. In one piece no list expires.
            return self._listed(group, plural, job, query)

    def merge(self, group: str, plural: str, name: str, patch: Document, *, job: str) -> None:
        """Merge fields into an object; nothing happens where there is none."""
        self._request("PATCH", self._path(group, plural) + "/" + quote(name), job, body=patch)

    def delete(self, group: str, plural: str, name: str, uid: str, *, job: str) -> None:
        """Delete an object and, by and by, what it owns; nothing happens where there is none with this ``uid``."""
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        body = {**options, "preconditions": {"uid": uid}}
        # A conflict: it is gone, and there is another of its name.
        with suppress(AlreadySubmittedError):
            self._request("DELETE", self._path(group, plural) + "/" + quote(name), job, body=body)

    def log(self, pod: str, container: str, *, job: str, since: str | None) -> bytes | None:
        """A container's log with a time stamp before each line; None where there is no log (yet)."""
        query = {"container": container, "timestamps": "true"}
        if since:
            query["sinceTime"] = since
        path = f"{self._path(CORE, 'pods')}/{quote(pod)}/log"
        content: bytes | None = self._request("GET", path, job, query=query, raw=True)
        return content

    def _listed(self, group: str, plural: str, job: str, query: Mapping[str, str]) -> Sequence[Document]:
        """The objects of all pages, which are of one state of the cluster."""
        objects: list[Document] = []
        token = ""
        while True:
            here = {**query, "continue": token} if token else query
            page = self._request("GET", self._path(group, plural), job, query=here)
            if page is None:
                return objects
            objects += page.get("items") or []
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return objects

    def _path(self, group: str, plural: str, namespace: str | None = None) -> str:
        return f"/{group}/namespaces/{quote(namespace or self.namespace)}/{plural}"

    def _request(
        self,
        method: str,
        path: str,
        job: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Document | None = None,
        raw: bool = False,
    ) -> Any:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "*/*" if raw else "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        try:
            answer = self._client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                response_type=None if raw else "object",
                auth_settings=["BearerToken"],
                _preload_content=not raw,
                _return_http_data_only=True,
                _request_timeout=_TIMEOUT,
            )
            return answer.data if raw else answer
        except (ApiException, HTTPError, OSError) as error:
            # A container that has not started has no log; the server calls asking for it a bad request.
            if isinstance(error, ApiException) and (error.status == 404 or (raw and error.status == 400)):
                return None
            raise translated(error, JobDetails(name=job, namespace=self.namespace)) from error


def translated(error: BaseException, details: JobDetails) -> TrainJobError:
    """An error of the Kubernetes client, or of the SDK around it, as one of ours."""
    from kubernetes.client import ApiException

    if not isinstance(error, ApiException):
        return ApiUnavailableError(f"the Kubernetes API did not answer: {error}", details)
    message = _server_message(error)
    if error.status == _CONFLICT:
        return AlreadySubmittedError(f"the server says {message!r}", details)
    if not error.status or error.status in (_GONE, _TOO_MANY_REQUESTS) or error.status >= 500:
        return ApiUnavailableError(f"the Kubernetes API answered {error.status}: {message}", details)
    return RejectedError(f"the Kubernetes API refused with status {error.status}: {message}", details)


def _server_message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (KeyError, TypeError, ValueError):
        return str(error.body or error.reason)
