"""What a training tells the outside, as events that several sinks receive: log lines, and others where they are wanted.

Events, also the custom messages over Dagster Pipes:
    {"type": "started", ...}    what was chosen for it: device, backend, processes, loading, rows of a step, precision
    {"type": "epoch", ...}      the fields of `trainer.training.EpochReport`
    {"type": "resumed", "epoch": int, "step": int}      it goes on from a checkpoint; step counts from the beginning
    {"type": "recovered", "kind": str, "message": str}  it cured what `kind` names, and goes on
    {"type": "interrupted", "epoch": int, "step": int}  a signal stopped it; the state is saved
    {"type": "error", "kind": str, "message": str}      it ends here; kinds are those of `trainer.errors`
    {"type": "progress", ...}   between epochs; not sent to Dagster, not logged
    {"type": "result", "metadata": dict, "data_version": str}  to Dagster as a materialization: numbers by stable keys,
        "bundle_path", and the bundle's hash as data version
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes

from trainer.errors import SpecError
from trainer.progress import ProgressServer
from trainer.pushgateway import Pushgateway

_logger = logging.getLogger("trainer")

PROGRESS_PORT_ENV_VAR = "TRAINER_PROGRESS_PORT"
TERMINATION_LOG_ENV_VAR = "TRAINER_TERMINATION_LOG"
PUSHGATEWAY_ENV_VAR = "PROMETHEUS_PUSHGATEWAY_URL"

Event = Mapping[str, Any]


class Sink(Protocol):
    """Somewhere events go."""

    def receive(self, event: Event) -> None:
        """Pass on an event, or leave it."""


class Report:
    """Sends each event to all sinks; without any it says nothing, which is for every process but the first."""

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks = sinks

    def event(self, type_: str, fields: Mapping[str, Any]) -> None:
        """Send an event."""
        for sink in self._sinks:
            sink.receive({"type": type_, **fields})

    def error(self, kind: str, message: str) -> None:
        """The training ends here."""
        self.event("error", {"kind": kind, "message": message})

    def result(self, metadata: Mapping[str, float | str], data_version: str) -> None:
        """The bundle is published."""
        self.event("result", {"metadata": dict(metadata), "data_version": data_version})


class LogSink:
    """One line per event on standard output; errors as one line on standard error."""

    def receive(self, event: Event) -> None:
        """Log it."""
        match event["type"]:
            case "error":
                sys.stderr.write(f"trainer: {event['message']}\n")
            case "progress":
                pass
            case "result":
                _logger.info("result %s", _key_values({**event["metadata"], "data_version": event["data_version"]}))
            case type_:
                _logger.info("%s %s", type_, _key_values({k: v for k, v in event.items() if k != "type"}))


class PipesSink:
    """Messages to the Dagster run that started this training."""

    def __init__(self, pipes: PipesContext) -> None:
        self._pipes = pipes

    def receive(self, event: Event) -> None:
        """Send it."""
        match event["type"]:
            case "progress":
                pass
            case "result":
                self._pipes.report_asset_materialization(metadata=event["metadata"], data_version=event["data_version"])
            case _:
                self._pipes.report_custom_message(dict(event))


@contextmanager
def opened_report(rank: int) -> Iterator[Report]:
    """The report of the process of this rank, closed on leaving.

    The first process logs; and sends to Dagster if it started this, to the Pushgateway at PROMETHEUS_PUSHGATEWAY_URL,
    and serves its progress on TRAINER_PROGRESS_PORT (and writes the last to TRAINER_TERMINATION_LOG), where those
    variables are set.
    """
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format=f"%(asctime)s [Rank {rank}] %(levelname)s %(message)s"
    )
    with ExitStack() as stack:
        yield Report(list(_sinks(stack)) if rank == 0 else ())


def _sinks(stack: ExitStack) -> Iterator[Sink]:
    yield LogSink()
    if DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ:
        yield PipesSink(stack.enter_context(open_dagster_pipes()))
    if url := os.environ.get(PUSHGATEWAY_ENV_VAR):
        yield Pushgateway(url)
    if port := os.environ.get(PROGRESS_PORT_ENV_VAR):
        yield stack.enter_context(_progress_server(port))


def _progress_server(port: str) -> ProgressServer:
    try:
        return ProgressServer(int(port), os.environ.get(TERMINATION_LOG_ENV_VAR, "/dev/termination-log"))
    except (ValueError, OverflowError, OSError) as error:
        raise SpecError(f"{PROGRESS_PORT_ENV_VAR} is {port!r}: progress cannot be served there ({error})") from error


def _key_values(fields: Mapping[str, Any]) -> str:
    return " ".join(
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items()
    )
