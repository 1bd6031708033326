"""A submission in the options of the Kubeflow SDK."""

from typing import Any

from forecast_assets.trainjob.observation import Submission


def sdk_options(submission: Submission) -> list[Any]:
    """The options of ``TrainerClient.train`` that say what the submission says beside trainer and runtime."""
    from kubeflow.trainer.options import ActiveDeadlineSeconds, Annotations, Labels, Name, TrainerArgs, TrainerCommand

    options: list[Any] = [
        Name(submission.name),
        Labels(dict(submission.labels)),
        Annotations(dict(submission.annotations)),
    ]
    if submission.command is not None:
        options.append(TrainerCommand(list(submission.command)))
    if submission.args is not None:
        options.append(TrainerArgs(list(submission.args)))
    if submission.deadline_seconds is not None:
        options.append(ActiveDeadlineSeconds(submission.deadline_seconds))
    return [*options, *submission.options]
