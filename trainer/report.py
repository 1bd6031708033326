"""What a training tells the outside: log lines, and Dagster Pipes messages where Dagster started it.

Messages over Pipes:
    {"type": "epoch", ...}: the fields of `trainer.training.EpochReport`.
    {"type": "error", "message": str}: the caller's mistake that ended the training.
    a materialization: numbers by stable keys, "bundle_path", and the bundle's hash as data version.
"""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dagster_pipes import DAGSTER_PIPES_CONTEXT_ENV_VAR, PipesContext, open_dagster_pipes

_logger = logging.getLogger("trainer")


class Report:
    """Says nothing: for every process but the first."""

    def epoch(self, fields: Mapping[str, float]) -> None:
        """One pass over the training rows is done."""

    def error(self, message: str) -> None:
        """The training ends here, for a mistake of the caller."""

    def result(self, metadata: Mapping[str, float | str], data_version: str) -> None:
        """The bundle is published."""


class LogReport(Report):
    """Writes one line per event to standard output, and errors to standard error."""

    def epoch(self, fields: Mapping[str, float]) -> None:
        _logger.info("epoch %s", _key_values(fields))

    def error(self, message: str) -> None:
        sys.stderr.write(f"trainer: {message}\n")

    def result(self, metadata: Mapping[str, float | str], data_version: str) -> None:
        _logger.info("result %s", _key_values({**metadata, "data_version": data_version}))


class PipesReport(LogReport):
    """Also sends every event to Dagster."""

    def __init__(self, pipes: PipesContext) -> None:
        self._pipes = pipes

    def epoch(self, fields: Mapping[str, float]) -> None:
        super().epoch(fields)
        self._pipes.report_custom_message({"type": "epoch", **fields})

    def error(self, message: str) -> None:
        super().error(message)
        self._pipes.report_custom_message({"type": "error", "message": message})

    def result(self, metadata: Mapping[str, float | str], data_version: str) -> None:
        super().result(metadata, data_version)
        self._pipes.report_asset_materialization(metadata=dict(metadata), data_version=data_version)


@contextmanager
def opened_report(rank: int) -> Iterator[Report]:
    """The report of the process of this rank, closed on leaving."""
    logging.basicConfig(
        stream=sys.stdout, level=logging.INFO, format=f"%(asctime)s [Rank {rank}] %(levelname)s %(message)s"
    )
    if rank > 0:
        yield Report()
    elif DAGSTER_PIPES_CONTEXT_ENV_VAR in os.environ:
        with open_dagster_pipes() as pipes:
            yield PipesReport(pipes)
    else:
        yield LogReport()


def _key_values(fields: Mapping[str, float | str]) -> str:
    return " ".join(
        f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}" for key, value in fields.items()
    )
