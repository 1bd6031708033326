"""Whether documents are what the API says: unknown fields, missing ones, wrong types.

Built-in kinds are judged by the models of the Kubernetes client, those of Kubeflow Trainer and JobSet by the models of
its SDK, all others by the CustomResourceDefinitions in a folder, where they are.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from deploy.checks.render import Document

Crds = dict[tuple[str, str], Document]

_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}


class UnknownKindError(Exception):
    """Nothing describes this kind."""


def load_crds(folder: Path) -> Crds:
    """The schemas of all CustomResourceDefinitions in a folder, by apiVersion and kind."""
    found: Crds = {}
    for file in sorted(folder.glob("*.yaml")) if folder.is_dir() else []:
        for document in yaml.safe_load_all(file.read_text()):
            if document and document.get("kind") == "CustomResourceDefinition":
                spec = document["spec"]
                for version in spec["versions"]:
                    key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                    found[key] = version["schema"]["openAPIV3Schema"]
    return found


def findings(document: Document, crds: Crds) -> Iterator[str]:
    """What is wrong with a document, one line each.

    Raises:
        UnknownKindError: no model and no definition describes it.
    """
    if schema := crds.get((document["apiVersion"], document["kind"])):
        yield from _against_schema(document, {**schema, "properties": _with_object(schema)}, "$")
        return
    try:
        kept = _through_trainer_models(document) or _through_client_models(document)
    except ValueError as error:
        yield f"$: {error}"
        return
    if kept is None:
        raise UnknownKindError(f"{document['apiVersion']} {document['kind']}")
    yield from _differences(document, kept, "$")


def _through_trainer_models(document: Document) -> Document | None:
    from kubeflow_trainer_api import models

    prefixes = {"trainer.kubeflow.org/v1alpha1": "TrainerV1alpha1", "jobset.x-k8s.io/v1alpha2": "JobsetV1alpha2"}
    model = getattr(models, prefixes.get(document["apiVersion"], "-") + document["kind"], None)
    return model.from_dict(document).to_dict() if model else None


def _through_client_models(document: Document) -> Document | None:
    from kubernetes import client

    group, _, version = document["apiVersion"].rpartition("/")
    model = version.capitalize() + document["kind"]
    if not hasattr(client, model) or ("." in group and not group.endswith(".k8s.io")):
        return None
    api = client.ApiClient()
    parsed = api.deserialize(SimpleNamespace(data=json.dumps(document)), model)
    kept: Document = api.sanitize_for_serialization(parsed)
    return kept


def _differences(given: Any, kept: Any, path: str) -> Iterator[str]:
    """What the models lost or changed; empty values they may leave out."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for key, value in given.items():
            if value in (None, {}, []):
                continue
            if key not in kept:
                yield f"{path}: unknown field '{key}'"
            else:
                yield from _differences(value, kept[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(kept, list):
        for index, (one, other) in enumerate(zip(given, kept, strict=False)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif given != kept or type(given) is not type(kept):
        yield f"{path}: expected {kept!r}, got {given!r}"


def _with_object(schema: Document) -> Document:
    """Every object has these, whatever its definition says."""
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    meta = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": free}
    return {**schema.get("properties", {}), **meta}


def _against_schema(value: Any, schema: Document, path: str) -> Iterator[str]:
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, str | int | float):
            yield f"{path}: expected a number or a string, got {value!r}"
        return
    expected = _JSON_TYPES.get(schema.get("type", ""))
    if expected and (not isinstance(value, expected) or (isinstance(value, bool) and schema["type"] != "boolean")):
        yield f"{path}: expected {schema['type']}, got {value!r}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _against_schema(item, schema.get("items", {}), f"{path}[{index}]")
    if isinstance(value, dict):
        yield from _object_against_schema(value, schema, path)


def _object_against_schema(value: Document, schema: Document, path: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    closed = properties and not others and not schema.get("x-kubernetes-preserve-unknown-fields")
    yield from (
        f"{path}: required field '{name}' is missing" for name in schema.get("required", []) if name not in value
    )
    for key, item in value.items():
        if key in properties:
            yield from _against_schema(item, properties[key], f"{path}.{key}")
        elif isinstance(others, dict):
            yield from _against_schema(item, others, f"{path}.{key}")
        elif closed:
            yield f"{path}: unknown field '{key}'"
