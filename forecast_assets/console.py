"""A console logger for people: one line per thing that happened, no debug lines, no stack traces."""

import logging
import sys
import time
from typing import Any

import dagster as dg

_SKIPPED = "Dependencies for step"  # Dagster's line for each step after a failed one
_INTERRUPTIONS = {"DagsterExecutionInterruptedError", "KeyboardInterrupt"}  # they have no message


class ProgressHandler(logging.Handler):
    """Prints when a step starts, what it says, how long it took, and why it failed."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._started = time.monotonic()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print the line for ``record``, if it has one."""
        meta: dict[str, Any] = getattr(record, "dagster_meta", {})
        event = meta.get("dagster_event")
        line = self._event_line(event) if event is not None else self._message_line(record, meta)
        if line:
            elapsed = time.monotonic() - self._started
            sys.stdout.write(f"{elapsed:6.1f}s  {line}\n")
            sys.stdout.flush()

    def _message_line(self, record: logging.LogRecord, meta: dict[str, Any]) -> str | None:
        message = str(meta.get("orig_message", record.getMessage()))
        if record.levelno < logging.INFO or meta.get("step_key") is None or message.startswith(_SKIPPED):
            return None
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return f"    {prefix}{message}"

    def _event_line(self, event: dg.DagsterEvent) -> str | None:
        if event.is_step_start:
            return f"▸ {event.step_key}"
        if event.is_step_failure:
            return f"  ✗ {event.step_key}: {reason(event)}"
        if event.is_step_up_for_retry:
            retry = event.step_retry_data
            return self._once(f"    warning: tried again every {retry.seconds_to_wait} s: {_root(retry.error)}")
        if event.event_type_value == "ASSET_CHECK_EVALUATION":
            evaluation = event.asset_check_evaluation_data
            if evaluation.passed:
                return f"    ✓ check {evaluation.check_name}"
            why = evaluation.metadata.get("reason")
            line = f"    ✗ check {evaluation.check_name}" + (f": {why.value}" if why else "")
            # Of a drop that is refused, three assets have the same to say.
            return self._once(line) if why else line
        return None

    def _once(self, line: str) -> str | None:
        if line in self._said:
            return None
        self._said.add(line)
        return line


def reason(event: dg.DagsterEvent) -> str:
    """Why a step failed, in the words of whoever raised, without a traceback."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return str(data.user_failure_data.description)
    return _root(data.error)


def _root(error: Any) -> str:
    """What the first of a chain of serialized exceptions said."""
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return "unknown"
    return "interrupted" if error.cls_name in _INTERRUPTIONS else error.message.strip()


@dg.logger({}, "One line per step and message, for a person who watches")
def progress_logger(_: dg.InitLoggerContext) -> logging.Logger:
    """The logger that ``make demo`` uses in place of the console's."""
    logger = logging.getLogger("forecast_assets.progress")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers = [ProgressHandler()]
    return logger
