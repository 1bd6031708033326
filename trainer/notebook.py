"""The way in for notebooks, and for `CustomTrainer(func=training_func, func_args={"parameters": {...}})`.

The Kubeflow SDK ships the text of the function and nothing around it, through a shell: so it imports what it needs,
names nothing of this module, and has no dollar sign, backslash or backtick in it.
"""


def training_func(parameters: dict[str, object]) -> None:
    """Train by parameters, the fields of trainer.spec.TrainSpec; a failure ends the process."""
    from trainer.entry import train_or_exit

    train_or_exit(parameters)
