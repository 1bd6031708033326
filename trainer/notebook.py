"""The way in for `CustomTrainer(func=training_func, func_args={...})` of the Kubeflow SDK, and for notebooks.

The SDK ships the text of a function and nothing around it, through a shell: so its body imports what it needs, and has
no dollar sign and no backslash in it.
"""

from typing import Any


def training_func(parameters: dict[str, Any]) -> None:
    """Train by `parameters`, the fields of `trainer.spec.TrainSpec`; a failure exits the process, as `trainer` does."""
    from trainer.entry import train_or_exit

    train_or_exit(parameters)
