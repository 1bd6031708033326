"""Whether what documents refer to is there: Secrets, ConfigMaps, claims, accounts, roles, services, selectors, ports.

Secrets that others make (operators, External Secrets, an administrator) are declared in `deploy/secrets.yaml`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from deploy.checks.render import Document, label

Keys = Mapping[str, Collection[str]]

_EVERYWHERE = "0.0.0.0"  # noqa: S104 - what a server listens on in its pod


def findings(documents: Sequence[Document], outside_secrets: Keys) -> Iterator[str]:
    """What is referred to and is not there, one line each."""
    secrets = {**_keys(documents, "Secret"), **{name: set(keys) for name, keys in outside_secrets.items()}}
    configs = _keys(documents, "ConfigMap")
    claims = _names(documents, "PersistentVolumeClaim")
    accounts = _names(documents, "ServiceAccount") | {"default"}
    for document in documents:
        for pod in pod_templates(document):
            found = _of_pod(pod["spec"], secrets, configs, claims, accounts)
            yield from (f"{label(document)}: {finding}" for finding in found)
            found = _hosts(pod["spec"], documents)
            yield from (f"{label(document)}: {finding}" for finding in found)
    yield from _selectors(documents)
    yield from _bindings(documents, accounts)


def pod_templates(document: Document) -> Iterator[Document]:
    """The pod templates in a document, wherever they are: with ``metadata`` and a ``spec`` that has containers."""
    match document["kind"]:
        case "Pod":
            yield document
        case "InferenceService":
            predictor = document["spec"]["predictor"]
            yield {"metadata": {"labels": predictor.get("labels", {})}, "spec": predictor}
        case "FeatureStore":
            yield from _of_feature_store(document)
        case _:
            yield from _templates(document)


def _of_feature_store(document: Document) -> Iterator[Document]:
    """Feast's operator puts all servers into one pod."""
    services: dict[str, Any] = document["spec"]["services"]
    stores = {name: services[name] for name in ("offlineStore", "onlineStore") if name in services}
    containers = [{"name": name, **store["server"]} for name, store in stores.items()]
    labels = {"feast.dev/name": document["metadata"]["name"]}
    yield {"metadata": {"labels": labels}, "spec": {"containers": containers}}


def _templates(document: Document) -> Iterator[Document]:
    stack: list[Any] = [document.get("spec")]
    while stack:
        part = stack.pop()
        if isinstance(part, dict):
            template = part.get("template")
            if isinstance(template, dict) and "containers" in (template.get("spec") or {}):
                yield template
            stack += part.values()
        elif isinstance(part, list):
            stack += part


def pod_labels(document: Document) -> Iterator[Mapping[str, str]]:
    """The labels that a document's pods will have, those of Trainer and JobSet included."""
    for template in pod_templates(document):
        labels = dict(template.get("metadata", {}).get("labels", {}))
        if document["kind"] in ("TrainingRuntime", "ClusterTrainingRuntime"):
            labels |= {"jobset.sigs.k8s.io/replicatedjob-name": "node", "jobset.sigs.k8s.io/jobset-name": "*"}
        yield labels
    if document["kind"] == "Cluster":
        yield {"cnpg.io/cluster": document["metadata"]["name"], "cnpg.io/podRole": "instance"}
    if document["kind"] == "Pooler":
        yield {"cnpg.io/poolerName": document["metadata"]["name"]}


def _of_pod(spec: Document, secrets: Keys, configs: Keys, claims: set[str], accounts: set[str]) -> Iterator[str]:
    account = spec.get("serviceAccountName", "default")
    if account not in accounts:
        yield f"there is no ServiceAccount {account}"
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for volume in spec.get("volumes", []):
        if (claim := volume.get("persistentVolumeClaim")) and claim["claimName"] not in claims:
            yield f"there is no PersistentVolumeClaim {claim['claimName']}"
        if (secret := volume.get("secret")) and secret["secretName"] not in secrets and not secret.get("optional"):
            yield f"there is no Secret {secret['secretName']}"
        if (config := volume.get("configMap")) and config["name"] not in configs:
            yield f"there is no ConfigMap {config['name']}"
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        name = container["name"]
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"container {name} mounts volume {mount['name']}, which the pod does not have"
        for variable in container.get("env", []):
            yield from _of_variable(variable, secrets, configs)
        for source in container.get("envFrom", []):
            for kind, there in (("secretRef", secrets), ("configMapRef", configs)):
                if kind in source and source[kind]["name"] not in there:
                    yield f"container {name} takes its environment from {source[kind]['name']}, which is not there"
        yield from _of_probes(container)


def _of_variable(variable: Document, secrets: Keys, configs: Keys) -> Iterator[str]:
    for kind, there in (("secretKeyRef", secrets), ("configMapKeyRef", configs)):
        reference = variable.get("valueFrom", {}).get(kind)
        if reference and not reference.get("optional") and reference["key"] not in there.get(reference["name"], ()):
            yield f"{variable['name']} refers to key {reference['key']} of {reference['name']}, which is not there"


def _hosts(spec: Document, documents: Sequence[Document]) -> Iterator[str]:
    """Variables that end in _HOST name a Service of ours, or one that CloudNativePG makes, or where to listen."""
    services = {_EVERYWHERE} | _names(documents, "Service") | _names(documents, "Pooler")
    services |= {f"{name}-{kind}" for name in _names(documents, "Cluster") for kind in ("rw", "ro", "r")}
    for container in spec["containers"]:
        for variable in container.get("env", []):
            if variable["name"].endswith("_HOST") and variable.get("value") not in services:
                yield f"{variable['name']} is {variable.get('value')}, and there is no such Service"


def _of_probes(container: Document) -> Iterator[str]:
    named = {port.get("name") for port in container.get("ports", [])}
    numbers = {port["containerPort"] for port in container.get("ports", [])}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        port = container.get(probe, {}).get("httpGet", {}).get("port")
        if port is not None and port not in named | numbers:
            yield f"container {container['name']}: {probe} asks port {port}, which it does not have"


def _selectors(documents: Sequence[Document]) -> Iterator[str]:
    pods = [labels for document in documents for labels in pod_labels(document)]
    ports = {
        port.get("name") or port["containerPort"]
        for document in documents
        for template in pod_templates(document)
        for container in template["spec"]["containers"]
        for port in container.get("ports", [])
    }
    for document in documents:
        selector = _selector(document)
        if selector and not any(matches(selector, labels) for labels in pods):
            yield f"{label(document)}: no pod has the labels {selector}"
        if document["kind"] == "Service":
            targets = {port.get("targetPort", port["port"]) for port in document["spec"]["ports"]}
            yield from (f"{label(document)}: no container has port {port}" for port in targets - ports)


def _selector(document: Document) -> Mapping[str, str]:
    spec = document.get("spec") or {}
    match document["kind"]:
        case "Service":
            return dict(spec.get("selector", {}))
        case "NetworkPolicy":
            return dict((spec.get("podSelector") or {}).get("matchLabels", {}))
        case "PodDisruptionBudget" | "Deployment" | "StatefulSet":
            return dict((spec.get("selector") or {}).get("matchLabels", {}))
    return {}


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether labels have all that a selector asks for; "*" stands for any value."""
    return all(labels.get(key) in (value, "*") for key, value in selector.items())


def _bindings(documents: Sequence[Document], accounts: set[str]) -> Iterator[str]:
    roles = {label(document) for document in documents}
    for document in documents:
        if document["kind"] == "RoleBinding":
            role = f"{document['roleRef']['kind']}/{document['roleRef']['name']}"
            if role not in roles and not role.startswith("ClusterRole/"):
                yield f"{label(document)}: there is no {role}"
            subjects = {s["name"] for s in document["subjects"] if s["kind"] == "ServiceAccount"}
            yield from (f"{label(document)}: there is no ServiceAccount {name}" for name in subjects - accounts)
        if document["kind"] == "HorizontalPodAutoscaler":
            target = document["spec"]["scaleTargetRef"]
            if f"{target['kind']}/{target['name']}" not in roles:
                yield f"{label(document)}: there is no {target['kind']}/{target['name']} to scale"


def _names(documents: Sequence[Document], kind: str) -> set[str]:
    return {document["metadata"]["name"] for document in documents if document["kind"] == kind}


def _keys(documents: Sequence[Document], kind: str) -> dict[str, set[str]]:
    return {
        document["metadata"]["name"]: {*document.get("data", {}), *document.get("stringData", {})}
        for document in documents
        if document["kind"] == kind
    }
