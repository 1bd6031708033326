"""The Role that `deploy/` gives to Dagster is enough for every request that the client makes."""

import re

import yaml
from kubernetes_submissions import submission
from kubernetes_wire import Wire
from kubernetes_wire_cluster import NAMESPACE, RUNTIME_FILE, Cluster

from forecast_assets.trainjob.kubernetes import KubernetesPlatform

pytest_plugins = ["kubernetes_wire_fixtures"]

ROLE_FILE = RUNTIME_FILE.parents[1] / "access" / "role.yaml"
_REQUEST = re.compile(
    r"(?P<method>\w+) /(?:api|apis/(?P<group>[^/]+))/v\w+/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<resource>\w+)(?P<name>/[^/?]+)?(?P<sub>/log)?(\?.*)?"
)
_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}


def needed(request: str) -> tuple[str, str, str]:
    """API group, resource and verb of a request."""
    matched = _REQUEST.fullmatch(request)
    assert matched, request
    verb = _VERBS.get(matched["method"]) or ("get" if matched["name"] else "list")
    return matched["group"] or "", matched["resource"] + (matched["sub"] or ""), verb


def test_no_request_of_the_client_is_beyond_its_role(
    platform: KubernetesPlatform, wire: Wire, cluster: Cluster
) -> None:
    platform.submit(submission())
    platform.observe("a-job")
    (pod, _) = cluster.start("a-job", nodes=2)
    cluster.running(pod).write("line")
    platform.observe("a-job")
    platform.read_log("a-job", 0)
    cluster.job("a-job")["spec"]["suspend"] = True
    platform.observe("a-job")
    platform.conclude("a-job", "{}")
    platform.list_jobs({"a": "b"})
    platform.delete("a-job")

    role = next(d for d in yaml.safe_load_all(ROLE_FILE.read_text()) if d["kind"] == "Role")
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    # The version's ConfigMap is in another namespace; Kubeflow Trainer lets everybody read it, and we do without.
    inside = [request for request in wire.requests if f"/namespaces/{NAMESPACE}/" in request]
    assert {needed(request) for request in inside} - granted == set()
    assert {request.split("?")[0] for request in wire.requests if request not in inside} == {
        "GET /api/v1/namespaces/kubeflow-system/configmaps/kubeflow-trainer-public"
    }
