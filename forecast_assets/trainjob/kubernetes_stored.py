"""What the server made of a job that was sent: fields that it does not know are dropped without a word."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

Document = dict[str, Any]


def dropped_fields(sent: Any, stored: Any, path: str = "") -> Iterator[str]:
    """The fields of ``sent`` that are not in ``stored``, as dotted paths. Empty values say nothing and may go."""
    if isinstance(sent, dict):
        for key, value in sent.items():
            inner = f"{path}.{key}" if path else key
            if value in (None, {}, []):
                continue
            if not isinstance(stored, dict) or key not in stored:
                yield inner
            else:
                yield from dropped_fields(value, stored[key], inner)
    elif isinstance(sent, list):
        for index, value in enumerate(sent):
            if not isinstance(stored, list) or index >= len(stored):
                yield f"{path}[{index}]"
            else:
                yield from dropped_fields(value, stored[index], f"{path}[{index}]")


def api_version() -> str:
    """The version of Kubeflow Trainer whose API the installed SDK speaks."""
    return version("kubeflow_trainer_api")


def versions_agree(server: str | None) -> bool:
    """Whether the server knows all that the SDK may send; an unknown version may."""
    return server is None or _minor(server) >= _minor(api_version())


def _minor(text: str) -> tuple[int, int]:
    major, minor = text.removeprefix("v").split(".")[:2]
    return int(major), int(minor)
