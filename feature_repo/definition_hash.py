"""A hash of Feast definitions that does not depend on when they were made or applied."""

import hashlib
import json
from typing import Any

from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]


def definition_hash(*definitions: Any) -> str:
    """SHA-256 of entities, feature views and feature services, as Feast writes them to the registry."""
    specs = [_as_written(MessageToDict(definition.to_proto().spec)) for definition in definitions]
    return hashlib.sha256(json.dumps(specs, sort_keys=True).encode()).hexdigest()


def _as_written(node: Any) -> Any:
    """The document without what Feast adds as it applies it: times (``meta``), and the columns of the entities."""
    if isinstance(node, dict):
        return {key: _as_written(value) for key, value in node.items() if key not in ("meta", "entityColumns")}
    return [_as_written(item) for item in node] if isinstance(node, list) else node
