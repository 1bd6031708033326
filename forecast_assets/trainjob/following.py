"""Following one job to its end: its messages, the logs of all nodes, and every change that a person would ask about."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from logging import Logger
from typing import Any, TypeVar

from dagster import DagsterLogManager

from forecast_assets.trainjob import errors
from forecast_assets.trainjob.diagnosis import ERROR_OF_REASON
from forecast_assets.trainjob.messages import JobMessages
from forecast_assets.trainjob.observation import JobObservation, JobPlatform

T = TypeVar("T")

_TICK_SECONDS = 0.1
_KEPT_LINES = 400
_SHOWN_CHARACTERS = 2_000
# Waiting does not help.
_HOPELESS = ("InvalidImageName", "ErrImageNeverPull")
# A queue may well take hours; the job's deadline is the limit.
_QUEUED = ("Suspended",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How many seconds a job's nodes may take to start, and how long the API server may be away."""

    start_seconds: float = 900.0
    api_seconds: float = 300.0


def patiently(call: Callable[[], T], platform: JobPlatform, patience: Patience, log: DagsterLogManager | Logger) -> T:
    """What ``call`` returns, called again while the API server is away.

    Raises:
        ApiUnavailableError: it was away for too long.
    """
    away_since: float | None = None
    while True:
        try:
            return call()
        except errors.ApiUnavailableError as error:
            if away_since is None:
                away_since = time.monotonic()
                log.warning(f"asking again for up to {patience.api_seconds:.0f} s: {error.summary}")
            if time.monotonic() - away_since > patience.api_seconds:
                raise
            time.sleep(platform.poll_seconds)


class Follower:
    """One job followed by this process; any number of processes may follow the same one.

    Args:
        echo: called with every line of every node's log, fit to be printed.
        on_message: called with every custom message.
    """

    def __init__(
        self,
        platform: JobPlatform,
        name: str,
        messages: JobMessages,
        *,
        patience: Patience,
        log: DagsterLogManager | Logger,
        echo: Callable[[str], None],
        on_message: Callable[[Any], None],
    ) -> None:
        self._platform = platform
        self._name = name
        self._messages = messages
        self._patience = patience
        self._log = log
        self._echo = echo
        self._on_message = on_message
        self._positions: dict[int, str] = {}
        self._relayed = 0
        self._said: dict[object, str] = {}
        self.logs: dict[int, deque[str]] = {}

    def follow(self) -> JobObservation:
        """Stay until the job has ended and everything it wrote is read; returns how it ended.

        Raises:
            NotStartedError: its nodes did not start in time. The job still exists.
            ApiUnavailableError: the API server was away for too long. The job may be well.
            RejectedError: the API server does not let us look.
        """
        next_look = time.monotonic()
        pending_since: float | None = None
        while True:
            if time.monotonic() >= next_look:
                job = self._look()
                if job.ended:
                    break
                pending_since = (pending_since or time.monotonic()) if job.phase == "pending" else None
                if pending_since is not None:
                    self._check_start(job, time.monotonic() - pending_since)
                next_look = time.monotonic() + self._platform.poll_seconds
            self._relay()
            time.sleep(_TICK_SECONDS)
        self._read_to_the_end(job)
        return job

    def _look(self) -> JobObservation:
        """The job as it is now; its logs are read on, too."""

        def look() -> JobObservation:
            job = self._platform.observe(self._name)
            self._read_logs(job)
            return job

        job = patiently(look, self._platform, self._patience, self._log)
        self._say_changes(job)
        return job

    def _check_start(self, job: JobObservation, waited: float) -> None:
        if job.reason in _QUEUED or (waited < self._patience.start_seconds and job.reason not in _HOPELESS):
            return
        error = ERROR_OF_REASON.get(job.reason, errors.NotStartedError)
        details = errors.JobDetails(
            name=self._name,
            namespace=self._platform.namespace,
            phase=job.phase,
            reason=job.reason,
            events=job.events,
        )
        raise error(f"not started after {waited:.0f} s: {job.message or job.reason or 'no reason given'}", details)

    def _read_to_the_end(self, job: JobObservation) -> None:
        """The job has ended; what it wrote last may take a moment to be seen on a shared volume."""
        deadline = time.monotonic() + 5 * self._platform.poll_seconds
        while True:
            read = self._read_logs(job)
            self._relay()
            waiting = job.phase == "complete" and not self._messages.closed and time.monotonic() < deadline
            if not read and not waiting:
                break
            if not read:
                time.sleep(_TICK_SECONDS)
        self._messages.poll(last=True)
        self._relay()

    def _read_logs(self, job: JobObservation) -> bool:
        """Read the nodes' logs on; returns whether there was anything."""
        read = False
        for node in job.nodes:
            chunk = self._platform.read_log(self._name, node.index, self._positions.get(node.index, ""))
            self._positions[node.index] = chunk.position
            read = read or bool(chunk.lines)
            for line in chunk.lines:
                rest = self._messages.take_line(line) if node.index == 0 else line
                if rest is not None:
                    self.logs.setdefault(node.index, deque(maxlen=_KEPT_LINES)).append(rest[:_SHOWN_CHARACTERS])
                    self._echo(f"[node-{node.index}] {_printable(rest)}")
        return read

    def _relay(self) -> None:
        self._messages.poll()
        for message in self._messages.custom[self._relayed :]:
            self._relayed += 1
            self._on_message(message)

    def _say_changes(self, job: JobObservation) -> None:
        because = f" ({': '.join(filter(None, (job.reason, job.message)))})" if job.reason or job.message else ""
        self._say("job", f"TrainJob {self._platform.namespace}/{self._name} is {job.phase}{because}")
        for node in job.nodes:
            if node.restart:
                why = ": ".join(filter(None, (node.reason, node.message)))
                self._say(
                    node.index, f"node {node.index} was replaced, for the {node.restart}. time: {why or 'unknown'}"
                )

    def _say(self, subject: object, text: str) -> None:
        if self._said.get(subject) != text:
            self._said[subject] = text
            self._log.info(text)


def _printable(line: str) -> str:
    shown = "".join(
        c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line[:_SHOWN_CHARACTERS]
    )
    return shown if len(line) <= _SHOWN_CHARACTERS else f"{shown} … ({len(line):,} characters)"
