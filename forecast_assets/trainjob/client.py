"""The Pipes client: one call runs a TrainJob, wherever it runs, and yields what it reported."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import AssetExecutionContext, PipesClient, PipesContextInjector, PipesEnvContextInjector

from forecast_assets.trainjob.errors import JobDetails, NotSubmittedError, TrainJobError
from forecast_assets.trainjob.execution import CompletedTrainJob, Execution
from forecast_assets.trainjob.following import Patience
from forecast_assets.trainjob.names import identity_of
from forecast_assets.trainjob.observation import JobPlatform
from forecast_assets.trainjob.recovery import NO_RECOVERY, RecoveryPolicy
from forecast_assets.trainjob.request import TrainJobRequest
from forecast_assets.trainjob.retention import Retention
from forecast_assets.trainjob.trainers import completed


def echo_to_stdout(line: str) -> None:
    """Print a line where Dagster keeps what a step prints."""
    sys.stdout.write(f"{line}\n")


class PipesTrainJobClient(PipesClient):
    """Launches TrainJobs and relays their messages, failing closed.

    Args:
        platform: where jobs run.
        records: folder for spec and messages of each job, at the same path in the job: a shared volume on a cluster.
            None if there is none: then messages come through the log of node 0.
        context_injector: how the job learns what it is materializing; by default through its environment.
        patience: how long nodes may take to start, and the API server may be away.
        retention: how long ended jobs are kept.
        echo: called with every line that a node writes.
    """

    def __init__(
        self,
        platform: JobPlatform,
        records: Path | None,
        *,
        context_injector: PipesContextInjector | None = None,
        patience: Patience | None = None,
        retention: Retention | None = None,
        echo: Callable[[str], None] = echo_to_stdout,
    ) -> None:
        self.platform = platform
        self._records = records
        self._context_injector = context_injector or PipesEnvContextInjector()
        self._patience = patience or Patience()
        self._retention = retention or Retention()
        self._echo = echo

    def run(  # type: ignore[override]
        self,
        *,
        context: AssetExecutionContext,
        trainer: Any,
        spec: Mapping[str, Any] | None = None,
        command: Sequence[str] | None = None,
        args: Sequence[str] | None = None,
        runtime: str | None = None,
        num_nodes: int | None = None,
        resources_per_node: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        deadline_seconds: int | None = None,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        options: Sequence[Any] = (),
        recovery: RecoveryPolicy = NO_RECOVERY,
        max_attempts: int = 3,
        identity: str | None = None,
        on_message: Callable[[Any], None] = lambda _: None,
        verify: Callable[[dg.MaterializeResult[Any]], None] = lambda _: None,
        read_result: Callable[[], dg.MaterializeResult[Any]] | None = None,
    ) -> CompletedTrainJob:
        """Run a TrainJob to its end, or go on with the one that an earlier attempt has left.

        Args:
            context: of the asset that the job materializes.
            trainer: any trainer object of the Kubeflow SDK.
            spec: the job's input, a JSON document. It is written to a file whose path replaces "{spec}" in command,
                args, env and a function's arguments, and is the extra "spec" of the Pipes context.
            command, args: what each node of a CustomTrainerContainer runs.
            runtime: name of the training runtime; None takes the platform's.
            num_nodes, resources_per_node: in place of the trainer's own.
            env: added to the trainer's own.
            deadline_seconds: after which the job has failed.
            labels, annotations: of the job, beside those by which it is found again.
            options: further options of the SDK, such as one RuntimePatch.
            recovery: what is tried after which failure.
            max_attempts: jobs at most, the first included.
            identity: what the job is an attempt at, where that is not run and asset. Calls with the same identity never
                run two jobs at once: the second adopts the first's.
            on_message: called in this thread with every custom message, as it arrives; after an adoption with all.
            verify: raises ValueError if a reported result is not what it says.
            read_result: makes the result of a job that cannot report one, such as a BuiltinTrainer's.

        Raises:
            TrainJobError: see `errors`; the last attempt's, if there were several.
        """
        try:
            request = TrainJobRequest(
                trainer=completed(trainer, num_nodes=num_nodes, resources_per_node=resources_per_node, env=env),
                spec=spec or {},
                command=command,
                args=args,
                runtime=runtime,
                deadline_seconds=deadline_seconds,
                labels=labels or {},
                annotations=annotations or {},
                options=options,
            )
        except ValueError as error:
            details = JobDetails(name=context.asset_key.to_user_string(), namespace=self.platform.namespace)
            raise NotSubmittedError(f"not started: {error}", details) from error
        self._clean_up(context)
        return Execution(
            platform=self.platform,
            records=self._records,
            context_injector=self._context_injector,
            patience=self._patience,
            echo=self._echo,
            context=context,
            identity=identity or identity_of(context),
            recovery=recovery,
            max_attempts=max_attempts,
            on_message=on_message,
            verify=verify,
            read_result=read_result,
        ).run(request)

    def _clean_up(self, context: AssetExecutionContext) -> None:
        try:
            self._retention.clean_up(self.platform, self._records)
        except (TrainJobError, OSError) as error:
            context.log.warning(f"old jobs were not removed: {error}")
