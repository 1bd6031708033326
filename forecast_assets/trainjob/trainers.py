"""Trainer objects of the Kubeflow SDK, completed by what the client adds to any of them."""

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import Any

SPEC_PLACEHOLDER = "{spec}"


def completed(
    trainer: Any,
    *,
    num_nodes: int | None = None,
    resources_per_node: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
) -> Any:
    """A copy of ``trainer`` with these values; None leaves the trainer's own. Variables are added to its own.

    Raises:
        ValueError: the trainer has no place for one of them.
    """
    if hasattr(trainer, "config") and not hasattr(trainer, "num_nodes"):
        # BuiltinTrainer keeps nodes and resources in its configuration, and has no environment at all.
        config = completed(trainer.config, num_nodes=num_nodes, resources_per_node=resources_per_node, env=env)
        return dataclasses.replace(trainer, config=config)
    changes: dict[str, Any] = {}
    if num_nodes is not None:
        changes["num_nodes"] = num_nodes
    if resources_per_node is not None:
        changes["resources_per_node"] = dict(resources_per_node)
    if env:
        changes["env"] = {**(getattr(trainer, "env", None) or {}), **env}
    if unknown := sorted(name for name in changes if not hasattr(trainer, name)):
        raise ValueError(f"{type(trainer).__name__} has no {' and no '.join(unknown)}")
    return dataclasses.replace(trainer, **changes)


def takes_environment(trainer: Any) -> bool:
    """Whether the trainer has an environment, without which a job cannot find Dagster Pipes."""
    return hasattr(trainer, "env")


def resources_of(trainer: Any) -> Mapping[str, Any] | None:
    """What each node asks for."""
    resources: Mapping[str, Any] | None = getattr(getattr(trainer, "config", trainer), "resources_per_node", None)
    return resources


def with_spec_path(value: Any, spec_path: str | None) -> Any:
    """``value`` with the placeholder "{spec}" replaced, in texts, sequences and mappings of them.

    Raises:
        ValueError: it occurs, and there is no path.
    """
    if isinstance(value, str):
        if SPEC_PLACEHOLDER in value and spec_path is None:
            raise ValueError(
                f"{value!r} needs the spec as a file, and there is no folder that this process and the job share: "
                "give the client one, or let the job take the extra 'spec' of its Pipes context"
            )
        return value.replace(SPEC_PLACEHOLDER, spec_path or "")
    if isinstance(value, Mapping):
        return {key: with_spec_path(item, spec_path) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_spec_path(item, spec_path) for item in value]
    return value


def red_hat_trainer(name: str, **fields: Any) -> Any:
    """A trainer of Red Hat's build of the SDK: "TransformersTrainer" or "TrainingHubTrainer".

    Raises:
        ValueError: that build is not installed.
    """
    if importlib.util.find_spec("kubeflow.trainer.rhai") is None:
        raise ValueError(
            f"{name} is part of Red Hat's build of the Kubeflow SDK, and the public one is installed. Both are called "
            "'kubeflow', so it cannot be had as an extra: install Red Hat's in its place, from the package index of "
            "Red Hat OpenShift AI"
        )
    return getattr(importlib.import_module("kubeflow.trainer.rhai"), name)(**fields)
