"""What `deploy/` renders to is valid, refers to nothing that is not there, and allows what it should and no more."""

import base64
import copy
import json
import re
import shutil
from typing import Any

import pytest
import yaml

from deploy.checks import helm, network, references, schemas
from deploy.checks.render import COMPONENTS, DEPLOY, OVERLAYS, Document, overlay, with_components
from serving.settings import Settings

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl, which renders, is not installed")

SECRETS: dict[str, list[str]] = yaml.safe_load((DEPLOY / "secrets.yaml").read_text())


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[Document]]:
    components = {name: with_components([name]) for name in COMPONENTS}
    # The component feature-server is what the operator is for: one or the other.
    everything = with_components([name for name in COMPONENTS if name not in ("feature-server", "kserve")])
    return {**{name: overlay(name) for name in OVERLAYS}, **components, "everything": everything}


def one(documents: list[Document], kind: str, name: str) -> Document:
    (found,) = [d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    return found


@pytest.mark.parametrize("name", [*OVERLAYS, *COMPONENTS])
def test_every_document_of_a_known_kind_is_valid(rendered: dict[str, list[Document]], name: str) -> None:
    unknown = set()
    for document in rendered[name]:
        try:
            assert list(schemas.findings(document, {})) == []
        except schemas.UnknownKindError:
            unknown.add(document["kind"])
    assert unknown <= {
        "Cluster",
        "Database",
        "FeatureStore",
        "InferenceService",
        "Pooler",
        "ScheduledBackup",
        "PodMonitor",
        "PrometheusRule",
        "ServiceMonitor",
    }


@pytest.mark.parametrize("name", [*OVERLAYS, *COMPONENTS])
def test_everything_referred_to_is_there(rendered: dict[str, list[Document]], name: str) -> None:
    assert list(references.findings([*rendered[name], *helm.pods()], SECRETS)) == []


@pytest.mark.parametrize(
    ("kind", "name", "path", "value", "finding"),
    [
        ("TrainingRuntime", "forecast-torch-cpu", "spec.mlPolicy.tourch", {"a": 1}, "unknown field 'tourch'"),
        ("TrainingRuntime", "forecast-torch-cpu", "spec.mlPolicy.numNodes", "2", "numNodes"),
        ("Role", "trainjob-client", "rules", None, None),
        ("Deployment", "forecast-redis", "spec.template.spec.containers", None, "containers"),
        ("NetworkPolicy", "postgres", "spec.podSelectors", {"a": "b"}, "unknown field 'podSelectors'"),
        ("ResourceQuota", "forecast", "spec.hard", {"requests.cpu": 64}, "expected '64', got 64"),
    ],
)
def test_mistakes_in_documents_are_found(
    rendered: dict[str, list[Document]], kind: str, name: str, path: str, value: Any, finding: str | None
) -> None:
    document = copy.deepcopy(one(rendered["cluster"], kind, name))
    *parents, last = path.split(".")
    holder: Any = document
    for parent in parents:
        holder = holder[parent]
    holder[last] = value
    found = list(schemas.findings(document, {}))
    assert (finding is None and found == []) or any(finding in each for each in found if finding)


def test_definitions_of_operators_are_used_where_they_are() -> None:
    properties = {"spec": {"type": "object", "required": ["size"], "properties": {"size": {"type": "integer"}}}}
    crds = {("x.io/v1", "Thing"): {"type": "object", "properties": properties}}
    thing = {"apiVersion": "x.io/v1", "kind": "Thing", "metadata": {"name": "a"}, "spec": {"size": "3", "sise": 1}}
    assert list(schemas.findings(thing, crds)) == [
        "$.spec.size: expected integer, got '3'",
        "$.spec: unknown field 'sise'",
    ]
    assert list(schemas.findings(thing | {"spec": {}}, crds)) == ["$.spec: required field 'size' is missing"]


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("forecast-postgres-trainer", "forecast-postgres-coach", "key username of forecast-postgres-coach"),
        ("claimName: forecast-shared", "claimName: shared", "no PersistentVolumeClaim shared"),
        ("serviceAccountName: trainer", "serviceAccountName: coach", "no ServiceAccount coach"),
        (r"(mountPath: /dev/shm\n +name: shm)", r"\1s", "mounts volume shms"),
        ("value: forecast-postgres-rw", "value: postgres", "POSTGRES_HOST is postgres"),
        ("jobset.sigs.k8s.io/replicatedjob-name: node", "training.kubeflow.org/job-role: worker", "no pod has the"),
        ("targetPort: redis", "targetPort: reddis", "no container has port reddis"),
        (r"key: password(\n +name: forecast-redis)", r"key: pw\1", "REDIS_PASSWORD refers to key pw"),
    ],
)
def test_dangling_references_are_found(rendered: dict[str, list[Document]], old: str, new: str, finding: str) -> None:
    text, replaced = re.subn(old, new, yaml.safe_dump_all(rendered["cluster"]))
    assert replaced
    broken = [*yaml.safe_load_all(text), *helm.pods()]
    assert any(finding in each for each in references.findings(broken, SECRETS))


TRAINER = {"app.kubernetes.io/name": "trainer", "jobset.sigs.k8s.io/replicatedjob-name": "node"}
DAGSTER = {"forecast/role": "dagster"}
POSTGRES = {"cnpg.io/cluster": "forecast-postgres"}
POOLER = {"cnpg.io/poolerName": "forecast-postgres-pooler"}
REDIS = {"app.kubernetes.io/name": "forecast-redis"}
SERVICE = {"app.kubernetes.io/name": "forecast-service"}
RAY = {"forecast/role": "ray"}
STRANGER = {"app": "stranger"}


@pytest.mark.parametrize(
    ("source", "target", "port", "expected"),
    [
        (TRAINER, TRAINER, 29500, True),
        (TRAINER, TRAINER, 41234, True),
        (TRAINER, POSTGRES, 5432, True),
        (TRAINER, POOLER, 5432, False),
        (TRAINER, REDIS, 6379, False),
        (TRAINER, DAGSTER, 80, False),
        (DAGSTER, POSTGRES, 5432, True),
        (DAGSTER, POOLER, 5432, True),
        (DAGSTER, REDIS, 6379, True),
        (DAGSTER, TRAINER, 29500, False),
        (RAY, RAY, 43210, True),
        (RAY, POSTGRES, 5432, True),
        (RAY, DAGSTER, 80, False),
        (DAGSTER, RAY, 10001, True),
        (DAGSTER, RAY, 6379, False),
        (TRAINER, RAY, 10001, True),
        (TRAINER, RAY, 6379, False),
        (SERVICE, POSTGRES, 5432, True),
        (SERVICE, REDIS, 6379, True),
        (SERVICE, TRAINER, 29500, False),
        (SERVICE, DAGSTER, 80, False),
        (STRANGER, SERVICE, 8080, False),
        (TRAINER, SERVICE, 8080, False),
        (POOLER, POSTGRES, 5432, True),
        (POSTGRES, POSTGRES, 5432, True),
        (POSTGRES, TRAINER, 29500, False),
        (STRANGER, POSTGRES, 5432, False),
        (STRANGER, TRAINER, 29500, False),
        (STRANGER, DAGSTER, 80, False),
        (REDIS, POSTGRES, 5432, False),
    ],
)
def test_who_may_reach_whom(
    rendered: dict[str, list[Document]], source: dict[str, str], target: dict[str, str], port: int, expected: bool
) -> None:
    assert network.allowed(rendered["cluster"], source, target, port) is expected


def test_dagster_may_write_trainjobs_and_nothing_else(rendered: dict[str, list[Document]]) -> None:
    """That it may do all that the client does is in test_kubernetes_rights.py."""
    granted = {
        (group, resource, verb)
        for rule in one(rendered["cluster"], "Role", "trainjob-client")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    writing = {grant for grant in granted if grant[2] not in ("get", "list", "watch")}
    assert writing == {("trainer.kubeflow.org", "trainjobs", verb) for verb in ("create", "patch", "delete")}
    assert not any(resource in ("secrets", "*") or group == "*" for group, resource, _ in granted)
    assert not any(d["kind"].startswith("ClusterRole") for d in rendered["cluster"])


@pytest.mark.parametrize("name", [*OVERLAYS, "feature-server", "kserve"])
def test_every_pod_of_ours_passes_the_restricted_standard(rendered: dict[str, list[Document]], name: str) -> None:
    for document in rendered[name]:
        for template in references.pod_templates(document):
            pod = template["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["automountServiceAccountToken"] is False
            for container in pod["containers"]:
                security = container["securityContext"]
                assert security["allowPrivilegeEscalation"] is False
                assert security["readOnlyRootFilesystem"] is True
                assert security["capabilities"] == {"drop": ["ALL"]}
                assert "memory" in container["resources"]["limits"]
            if name == "openshift":
                assert "runAsUser" not in str(pod)
                assert "fsGroup" not in str(pod)


def test_a_runtimes_pods_have_what_training_needs(rendered: dict[str, list[Document]]) -> None:
    for name, shared_memory in (("forecast-torch-cpu", "1Gi"), ("forecast-torch-gpu", "8Gi")):
        jobset = one(rendered["cluster"], "TrainingRuntime", name)["spec"]["template"]["spec"]
        job = jobset["replicatedJobs"][0]["template"]["spec"]
        pod = job["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": shared_memory}
        assert (pod["restartPolicy"], job["backoffLimit"]) == ("Never", 0)
        assert jobset["failurePolicy"]["maxRestarts"] > 0
        assert pod["terminationGracePeriodSeconds"] >= 60


def test_every_alert_has_an_entry_in_the_runbook(rendered: dict[str, list[Document]]) -> None:
    runbook = (DEPLOY.parent / "docs" / "runbook.md").read_text()
    rules = one(rendered["cluster"], "PrometheusRule", "forecast")
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"]]
    assert alerts
    for alert in alerts:
        assert f"## {alert['alert']}\n" in runbook
        assert alert["annotations"]["runbook"] == f"docs/runbook.md#{alert['alert'].lower()}"


def test_what_metrics_are_read_from_is_a_service_with_that_port(rendered: dict[str, list[Document]]) -> None:
    monitor = one(rendered["cluster"], "ServiceMonitor", "forecast-service")["spec"]
    service = one(rendered["cluster"], "Service", "forecast-service")
    assert references.matches(monitor["selector"]["matchLabels"], service["metadata"]["labels"])
    assert monitor["endpoints"][0]["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_dashboards_are_whole(rendered: dict[str, list[Document]]) -> None:
    files = one(rendered["cluster"], "ConfigMap", "forecast-dashboards")["data"]
    for name, text in files.items():
        panels = json.loads(text)["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels) > 0, name
        assert all(target["expr"] for panel in panels for target in panel["targets"]), name


def test_policies_name_pods_that_there_are(rendered: dict[str, list[Document]]) -> None:
    documents = [*rendered["everything"], *rendered["feature-server"], *helm.pods()]
    pods = [labels for document in documents for labels in references.pod_labels(document)]
    for policy in (document for document in documents if document["kind"] == "NetworkPolicy"):
        rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
        peers = [peer for rule in rules for peer in (*rule.get("from", []), *rule.get("to", []))]
        for peer in (peer for peer in peers if "namespaceSelector" not in peer):
            selector = peer["podSelector"]["matchLabels"]
            assert any(references.matches(selector, labels) for labels in pods), (policy["metadata"]["name"], selector)


# What others read: libpq, Feast, Dagster's chart, torch, and whoever needs a home.
OTHERS = {"PGUSER", "PGPASSWORD", "FEATURE_STORE_YAML_BASE64", "REDIS_PASSWORD", "TORCHINDUCTOR_CACHE_DIR", "HOME"}


def test_every_variable_that_is_set_is_read_by_somebody(rendered: dict[str, list[Document]]) -> None:
    folders = ("feature_repo", "forecast_assets", "serving", "trainer")
    paths = [path for folder in folders for path in (DEPLOY.parent / folder).rglob("*") if path.is_file()]
    code = "\n".join(path.read_text() for path in paths if path.suffix in (".py", ".yaml"))
    documents = [*rendered["everything"], *rendered["feature-server"], *rendered["cluster"], *helm.pods()]
    variables = {
        variable["name"]: variable.get("value", "1")
        for document in documents
        for template in references.pod_templates(document)
        for container in template["spec"]["containers"]
        for variable in container.get("env", [])
    }
    assert len(variables) > 15
    serving = {name: value for name, value in variables.items() if name.startswith("SERVING_")}
    assert Settings.from_environment(serving).host == "0.0.0.0"  # noqa: S104 - raises for one that is no setting
    unread = {name for name in variables.keys() - serving.keys() - OTHERS if not name.startswith("DAGSTER_PG_")}
    assert {name for name in unread if f'"{name}"' not in code and f"${{{name}}}" not in code} == set()


def test_the_feature_store_that_the_operator_is_given_is_the_repositorys(rendered: dict[str, list[Document]]) -> None:
    config = one(rendered["feast-operator"], "ConfigMap", "feast-config")["data"]["feature_store.yaml.base64"]
    assert base64.b64decode(config) == (DEPLOY.parent / "feature_repo" / "feature_store.yaml").read_bytes()


def test_the_feature_server_has_every_variable_of_the_feature_store(rendered: dict[str, list[Document]]) -> None:
    asked = set(re.findall(r"\$\{(\w+)\}", (DEPLOY.parent / "feature_repo" / "feature_store.yaml").read_text()))
    for name, kind in (("feature-server", "Deployment"), ("feast-operator", "FeatureStore")):
        document = one(rendered[name], kind, "feature-server" if kind == "Deployment" else "forecast")
        (container,) = (c for pod in references.pod_templates(document) for c in pod["spec"]["containers"])
        assert asked - {"FEAST_REDIS_CONNECTION"} <= {variable["name"] for variable in container["env"]}


def test_no_secret_is_in_what_is_rendered(rendered: dict[str, list[Document]]) -> None:
    for documents in rendered.values():
        assert not [document for document in documents if document["kind"] == "Secret"]
        for document in documents:
            for template in references.pod_templates(document):
                for container in template["spec"]["containers"]:
                    secret = [v for v in container.get("env", []) if re.search("PASSWORD|KEY|TOKEN", v["name"])]
                    assert all("secretKeyRef" in variable["valueFrom"] for variable in secret)


def test_secrets_that_somebody_has_to_make_are_those_that_are_asked_for(
    rendered: dict[str, list[Document]],
) -> None:
    text = yaml.safe_dump_all([*rendered["cluster"], *helm.pods()])
    assert set(re.findall(r"name: (forecast-(?:postgres-\w+|backup|redis|service))$", text, re.MULTILINE)) >= set(
        SECRETS
    )
    cluster = one(rendered["cluster"], "Cluster", "forecast-postgres")["spec"]
    asked = {role["passwordSecret"]["name"] for role in cluster["managed"]["roles"]}
    asked.add(cluster["bootstrap"]["initdb"]["secret"]["name"])
    assert asked <= {name for name, keys in SECRETS.items() if {"username", "password"} <= set(keys)}
    credentials = cluster["backup"]["barmanObjectStore"]["s3Credentials"].values()
    assert all(reference["key"] in SECRETS[reference["name"]] for reference in credentials)


def test_the_commands_for_kind_make_the_secrets_that_are_asked_for_there(rendered: dict[str, list[Document]]) -> None:
    document = (DEPLOY.parent / "docs" / "deploy.md").read_text()
    (command,) = re.findall(r"^kubectl create namespace .*\n.*", document, re.MULTILINE)
    asked = yaml.safe_dump_all([*rendered["kind"], *helm.pods()])
    optional = {"forecast-redis"}  # Redis is no part of it
    expected = {name for name in SECRETS.keys() - optional if re.search(rf"name: {name}$", asked, re.MULTILINE)}
    assert set(re.findall(r"forecast-[\w-]+", command)) == expected


def test_the_feature_server_reaches_the_online_stores_only_and_is_reached_from_without(
    rendered: dict[str, list[Document]],
) -> None:
    for name, server in (
        ("feature-server", {"app.kubernetes.io/name": "feature-server"}),
        ("everything", {"feast.dev/name": "forecast"}),
    ):
        policies = [*rendered[name], *(d for d in rendered["cluster"] if d["metadata"]["name"] == "redis")]
        for target, port in ((POSTGRES, 5432), (REDIS, 6379)):
            assert network.allowed(policies, server, target, port)
        for target, port in ((SERVICE, 8080), (RAY, 10001), (DAGSTER, 80)):
            assert not network.allowed(policies, server, target, port)
        assert not any(network.allowed(policies, source, server, 6566) for source in (STRANGER, TRAINER, DAGSTER))
