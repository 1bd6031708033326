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
# A queue may well take hours, which are no time to start.
_QUEUED = ("Suspended",)
# The phase of a node whose machine does not answer any more.
_SILENT = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How many seconds a job's nodes may take to start, out of the queue, and how long the API server may be away."""

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
        self._unread: dict[int, errors.ApiUnavailableError] = {}
        self._relayed = 0
        self._said: dict[object, str] = {}
        self.logs: dict[int, deque[str]] = {}

    def follow(self) -> JobObservation:
        """Stay until the job has ended and everything it wrote is read; returns how it ended.

        Raises:
            NotStartedError: its nodes did not start in time. The job still exists.
            ApiUnavailableError: the API server was away for too long, or the log that the job's result is in could not
                be read. The job may be well.
            RejectedError: the API server does not let us look.
        """
        next_look = time.monotonic()
        pending_since: float | None = None
        while True:
            if time.monotonic() >= next_look:
                job = self._look()
                if job.ended:
                    break
                starting = job.phase == "pending" and job.reason not in _QUEUED
                pending_since = (pending_since or time.monotonic()) if starting else None
                if pending_since is not None:
                    self._check_start(job, time.monotonic() - pending_since)
                next_look = time.monotonic() + self._platform.poll_seconds
            self._relay()
            time.sleep(_TICK_SECONDS)
        self._read_to_the_end(job)
        return job

    def _look(self) -> JobObservation:
        """The job as it is now; if it goes on, its logs are read on, too."""
        job = patiently(lambda: self._platform.observe(self._name), self._platform, self._patience, self._log)
        self._say_changes(job)
        if not job.ended:
            self._read_logs(job)
        return job

    def _check_start(self, job: JobObservation, waited: float) -> None:
        if waited < self._patience.start_seconds and job.reason not in _HOPELESS:
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
        """Read what the nodes wrote last: it may take a moment to be seen on a shared volume.

        Logs that cannot be read are waited for as for the API server, but not those of machines that are lost.
        """
        began = time.monotonic()
        while True:
            read = self._read_logs(job)
            self._relay()
            waited = time.monotonic() - began
            # What comes after all messages is of no consequence.
            told = job.phase == "complete" and self._messages.closed
            awaited = not told and any(node.index in self._unread and node.phase != _SILENT for node in job.nodes)
            late = job.phase == "complete" and not told and waited < 5 * self._platform.poll_seconds
            if not read and not late and not (awaited and waited < self._patience.api_seconds):
                break
            if not read:
                time.sleep(self._platform.poll_seconds if awaited else _TICK_SECONDS)
        self._messages.poll(last=True)
        self._relay()
        for node, error in self._unread.items():
            if node == 0 and job.phase == "complete" and self._messages.in_log and not self._messages.closed:
                raise error
            self._log.warning(f"the log of node {node} could not be read to its end: {error.summary}")

    def _read_logs(self, job: JobObservation) -> bool:
        """Read the nodes' logs on; returns whether there was anything.

        That a log cannot be read says nothing of the job: its node's machine may be lost, or only hard to reach.
        """
        read = False
        for node in job.nodes:
            if node.phase == _SILENT and node.index in self._unread:
                continue
            try:
                chunk = self._platform.read_log(self._name, node.index, self._positions.get(node.index, ""))
            except errors.ApiUnavailableError as error:
                if node.index not in self._unread:
                    self._log.warning(f"the log of node {node.index} cannot be read for now: {error.summary}")
                self._unread[node.index] = error
                continue
            self._unread.pop(node.index, None)
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
