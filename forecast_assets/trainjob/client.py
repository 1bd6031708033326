"""The Pipes client: one call runs a TrainJob and yields what it reported."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import (
    AssetExecutionContext,
    PipesClient,
    PipesContextInjector,
    PipesEnvContextInjector,
    PipesFileMessageReader,
    PipesMessageReader,
    PipesSession,
    open_pipes_session,
)

from forecast_assets.trainjob.errors import JobDetails, JobFailedError, NoResultError
from forecast_assets.trainjob.local import LocalJob, LocalLauncher

_POLL_SECONDS = 0.1


class PipesTrainJobClient(PipesClient):
    """Launches a TrainJob and relays its messages, failing closed.

    Args:
        launcher: where and with how many processes the job runs.
        jobs_folder: each job gets a folder of its own in it, with its spec, messages and logs.
        context_injector: how the job learns what it is materializing; by default through its environment.
    """

    def __init__(
        self,
        launcher: LocalLauncher,
        jobs_folder: Path,
        context_injector: PipesContextInjector | None = None,
    ) -> None:
        self._launcher = launcher
        self._jobs_folder = jobs_folder
        self._context_injector = context_injector or PipesEnvContextInjector()

    def run(  # type: ignore[override]
        self,
        *,
        context: AssetExecutionContext,
        module: str,
        spec: Mapping[str, Any],
        on_message: Callable[[Any], None] = lambda _: None,
    ) -> "CompletedTrainJob":
        """Run ``torchrun -m MODULE --spec spec.json`` and wait for it.

        Args:
            context: the context of the asset that is materialized by the job.
            module: the module that every process runs.
            spec: the JSON document that is its whole input.
            on_message: called in this thread with every custom message, as it arrives.

        Raises:
            JobFailedError: a process failed; all others are stopped first.
            NoResultError: the job ended without having reported a materialization.
        """
        name = f"{context.asset_key.path[-1]}-{context.run.run_id[:8]}-{context.retry_number}".replace("_", "-")
        folder = self._jobs_folder / name
        folder.mkdir(parents=True, exist_ok=True)
        spec_path = folder / "spec.json"
        spec_path.write_text(json.dumps(spec, indent=2))
        context.log.info(f"TrainJob {name}: spec and logs are in {folder}")
        with open_pipes_session(
            context=context, context_injector=self._context_injector, message_reader=_message_reader(folder)
        ) as session:
            job = self._launcher.launch(
                folder, ["-m", module, "--spec", str(spec_path)], session.get_bootstrap_env_vars()
            )
            relay = _Relay(session, on_message)
            try:
                while not job.finished():
                    relay.forward()
                    time.sleep(_POLL_SECONDS)
            finally:
                # Reached on a failed node and on any interrupt alike; a job that ended well has nothing to stop.
                failed_node = job.failed_node()
                job.stop()
        relay.forward()
        if failed_node is not None:
            raise JobFailedError(_failure(job, failed_node, relay.messages), JobDetails(name=name, namespace="local"))
        if not any(isinstance(result, dg.MaterializeResult) for result in session.get_reported_results()):
            raise NoResultError(
                "ended with status 0 but reported no result, so it counts as failed",
                JobDetails(name=name, namespace="local", find=str(folder / "node-0.log")),
            )
        return CompletedTrainJob(session, folder, relay.messages)


class CompletedTrainJob:
    """What a finished job reported. ``folder`` holds its spec and logs, ``messages`` its custom messages in order."""

    def __init__(self, session: PipesSession, folder: Path, messages: Sequence[Any]) -> None:
        self._session = session
        self.folder = folder
        self.messages = messages

    def get_results(self, metadata: Mapping[str, Any] | None = None) -> Sequence[dg.MaterializeResult[Any]]:
        """The reported materializations, ``metadata`` added; nothing is invented that the job did not report."""
        results = self._session.get_results(implicit_materializations=False, metadata=metadata)
        return [result for result in results if isinstance(result, dg.MaterializeResult)]


class _Relay:
    """Passes custom messages on once each."""

    def __init__(self, session: PipesSession, on_message: Callable[[Any], None]) -> None:
        self._session = session
        self._on_message = on_message
        self.messages: list[Any] = []

    def forward(self) -> None:
        new = self._session.get_custom_messages()[len(self.messages) :]
        for message in new:
            self.messages.append(message)
            self._on_message(message)


def _message_reader(folder: Path) -> PipesMessageReader:
    # The file is kept: it is the job's record, beside its logs.
    return PipesFileMessageReader(str(folder / "messages.jsonl"), cleanup_file=False)


def _failure(job: LocalJob, node: int, messages: Sequence[Any]) -> str:
    status = job.nodes[node].returncode
    reasons = [m["message"] for m in messages if isinstance(m, Mapping) and m.get("type") == "error"]
    if reasons:
        return f"failed: {reasons[-1]}"
    return (
        f"node {node} ended with status {status}; the end of {job.folder / f'node-{node}.log'}:\n{job.log_tail(node)}"
    )
