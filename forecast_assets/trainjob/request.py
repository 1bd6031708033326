"""What the client is asked to run, and how it becomes a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from forecast_assets.trainjob.observation import Submission
from forecast_assets.trainjob.recovery import Remedy
from forecast_assets.trainjob.trainers import completed, resources_of, takes_environment, with_spec_path


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJobRequest:
    """A job but for its name; the attributes are those of `PipesTrainJobClient.run`."""

    trainer: Any
    spec: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] | None = None
    args: Sequence[str] | None = None
    runtime: str | None = None
    deadline_seconds: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    options: Sequence[Any] = ()

    def adjusted(self, remedy: Remedy) -> Self:
        """The request of the attempt after a failure."""
        resources = remedy.adjusted_resources(resources_of(self.trainer))
        return replace(
            self,
            spec=remedy.adjusted_spec(self.spec),
            trainer=completed(self.trainer, resources_per_node=resources),
        )

    def submission(
        self,
        name: str,
        *,
        spec_path: str | None,
        env: Mapping[str, str],
        labels: Mapping[str, str],
        annotations: Mapping[str, str],
    ) -> Submission:
        """The job.

        Args:
            name: of the job.
            spec_path: what stands for "{spec}"; None if there is no file.
            env: by which the job finds Dagster Pipes; left out where the trainer has no place for it.
            labels, annotations: of the client, beside the request's own.

        Raises:
            ValueError: "{spec}" is used and there is no file.
        """
        trainer = completed(self.trainer, env=env) if takes_environment(self.trainer) else self.trainer
        asked = {"command": self.command, "args": self.args, "env": getattr(trainer, "env", None)}
        asked["func_args"] = getattr(trainer, "func_args", None)
        placed = with_spec_path(asked, spec_path)
        return Submission(
            name=name,
            trainer=replace(trainer, **{n: placed[n] for n in ("env", "func_args") if placed[n] is not None}),
            runtime=self.runtime,
            command=placed["command"],
            args=placed["args"],
            labels={**self.labels, **labels},
            annotations={**self.annotations, **annotations},
            deadline_seconds=self.deadline_seconds,
            options=self.options,
        )
