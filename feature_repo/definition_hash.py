"""A hash of Feast definitions that does not depend on when they were made or applied."""

import hashlib
import json
from typing import Any

from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]


def definition_hash(*definitions: Any) -> str:
    """SHA-256 of entities, feature views and feature services, as Feast writes them to the registry."""
    specs = [_without_times(MessageToDict(definition.to_proto().spec)) for definition in definitions]
    return hashlib.sha256(json.dumps(specs, sort_keys=True).encode()).hexdigest()


def _without_times(node: Any) -> Any:
    """The document without ``meta``, where Feast keeps the times of creation and of the last update."""
    if isinstance(node, dict):
        return {key: _without_times(value) for key, value in node.items() if key != "meta"}
    return [_without_times(item) for item in node] if isinstance(node, list) else node
