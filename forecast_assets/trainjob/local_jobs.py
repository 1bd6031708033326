"""Jobs on this machine: a folder each, kept by a supervisor, open to every process of the same user.

FOLDER/job.json         what was submitted; the environment is not in it, for there may be secrets in it
FOLDER/state.json       what has become of it, written by the supervisor
FOLDER/node-N.log       what node N has written
FOLDER/verdict.json     what the client made of it
FOLDER/lock             locked as long as the supervisor lives
"""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from forecast_assets.atomic import replacing
from forecast_assets.trainjob import local_supervisor
from forecast_assets.trainjob.observation import (
    VERDICT_ANNOTATION,
    JobEvent,
    JobObservation,
    LogChunk,
    NodeObservation,
)

# A line without an end is shown in pieces of this size, so that it cannot fill the memory.
_LONGEST_LINE = 16 * 2**20
_CHUNK_BYTES = 2 * _LONGEST_LINE
_DELETE_SECONDS = local_supervisor.GRACE_SECONDS + 5
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


class JobExistsError(Exception):
    """There is a job of this name."""


class LocalJobs:
    """The jobs in one folder. Unknown names are no error: such a job is "gone"."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, name: str) -> Path:
        """Where the job's files are."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be a job's name: a letter, then letters, digits and '-', 63 at most")
        return self.root / name

    def create(
        self, name: str, job: Mapping[str, Any], environment: Mapping[str, str], files: Mapping[str, str]
    ) -> None:
        """Start a job, with ``files`` in its folder. It appears in one step: nobody sees it without a supervisor.

        Raises:
            JobExistsError: there is one of this name.
            OSError: it could not be started.
        """
        folder = self.folder(name)
        self.root.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".new-", dir=self.root))
        try:
            (staging / "job.json").write_text(json.dumps({"created_at": datetime.now(UTC).isoformat(), **job}))
            for file, content in files.items():
                (staging / file).write_text(content)
            with (staging / "lock").open("w") as lock, (staging / "supervisor.log").open("wb") as log:
                fcntl.flock(lock, fcntl.LOCK_EX)
                try:
                    staging.rename(folder)
                except OSError:
                    if folder.exists():
                        raise JobExistsError(name) from None
                    raise
                subprocess.run(
                    [sys.executable, local_supervisor.__file__, str(folder)],
                    env={**os.environ, **environment, local_supervisor.FOLDER_VARIABLE: str(folder)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[lock.fileno()],
                    check=True,
                )
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def observe(self, name: str) -> JobObservation:
        """The job as it is now. One whose supervisor is gone before its end has failed; what is left of it is ended."""
        folder = self.folder(name)
        job = _read(folder / "job.json")
        if job is None:
            return JobObservation(name=name, phase="gone")
        kept = _is_locked(folder / "lock")
        state = _read(folder / "state.json") or {"phase": "pending", "nodes": [], "events": []}
        if not kept and state["phase"] in ("pending", "running"):
            local_supervisor.kill_processes_of(folder)
            message = "the process that kept the job is gone, and with it the exit status of the nodes"
            nodes = [{**n, "phase": "failed"} if n["exit_code"] is None else n for n in state["nodes"]]
            state = {**state, "phase": "failed", "reason": "NodeLost", "message": message, "nodes": nodes}
        verdict = _read(folder / "verdict.json")
        return JobObservation(
            name=name,
            phase=state["phase"],
            uid=job["created_at"],
            reason=state.get("reason", ""),
            message=state.get("message", ""),
            nodes=tuple(_node(name, node) for node in state["nodes"]),
            events=tuple(_event(event) for event in state["events"]),
            created_at=datetime.fromisoformat(job["created_at"]),
            ended_at=_time(state.get("ended_at")),
            labels=job["labels"],
            annotations=job["annotations"] | ({} if verdict is None else {VERDICT_ANNOTATION: json.dumps(verdict)}),
        )

    def submitted(self, name: str) -> Mapping[str, Any]:
        """What was given to `create`."""
        job = _read(self.folder(name) / "job.json")
        if job is None:
            raise KeyError(name)
        return job

    def names(self) -> Sequence[str]:
        """All jobs, oldest first."""
        jobs = [(_read(file), file.parent.name) for file in self.root.glob("[a-z]*/job.json")]
        return [name for _, name in sorted((job["created_at"], name) for job, name in jobs if job is not None)]

    def read_log(self, name: str, node: int, position: str = "") -> LogChunk:
        """The node's lines after ``position``. What is not yet ended by a newline waits, as long as the node runs."""
        folder = self.folder(name)
        running = _is_locked(folder / "lock")
        offset = int(position or 0)
        try:
            with (folder / f"node-{node}.log").open("rb") as log:
                log.seek(offset)
                written = log.read(_CHUNK_BYTES)
        except FileNotFoundError:
            return LogChunk(lines=(), position=position)
        complete = written.rfind(b"\n") + 1
        if len(written) - complete >= _LONGEST_LINE or (not running and len(written) < _CHUNK_BYTES):
            complete = len(written)
        # As a terminal shows them: of a progress bar that is rewritten in place, the last state.
        lines = [line.rstrip(b"\r").rpartition(b"\r")[2] for line in written[:complete].split(b"\n")]
        if complete == 0 or lines[-1] == b"":
            lines.pop()
        return LogChunk(lines=[line.decode(errors="replace") for line in lines], position=str(offset + complete))

    def conclude(self, name: str, verdict: str) -> None:
        """Keep the client's verdict, a JSON document, with the job."""
        folder = self.folder(name)
        if folder.exists():
            with replacing(folder / "verdict.json") as temporary:
                temporary.write_text(verdict)

    def delete(self, name: str, uid: str | None = None) -> None:
        """End all processes of the job, gently first, and remove its folder. With ``uid``, only if it is that job.

        Raises:
            TimeoutError: a process could not be ended; the folder stays.
        """
        folder = self.folder(name)
        if not folder.exists() or (uid is not None and (_read(folder / "job.json") or {}).get("created_at") != uid):
            return
        supervisor = self._supervisor(folder)
        if supervisor is not None:
            with suppress(psutil.NoSuchProcess):
                supervisor.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + _DELETE_SECONDS
            while _is_locked(folder / "lock") and time.monotonic() < deadline:
                time.sleep(0.05)
        if not local_supervisor.kill_processes_of(folder):
            raise TimeoutError(f"processes of the job in {folder} cannot be ended")
        # Out of sight in one step, so that nobody finds half a job.
        hidden = Path(tempfile.mkdtemp(prefix=".deleted-", dir=self.root))
        with suppress(FileNotFoundError):
            folder.rename(hidden / name)
        shutil.rmtree(hidden, ignore_errors=True)

    @staticmethod
    def _supervisor(folder: Path) -> psutil.Process | None:
        script = local_supervisor.__file__
        for process in local_supervisor.processes_of(folder):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if script in process.cmdline() and process.cmdline()[-1] == str(folder):
                    return process
        return None


def _is_locked(lock: Path) -> bool:
    try:
        with lock.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
    except FileNotFoundError:
        return False


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return content


def _node(job: str, node: Mapping[str, Any]) -> NodeObservation:
    return NodeObservation(
        index=node["index"],
        phase=node["phase"],
        place=f"process {node['pid']}",
        exit_code=node["exit_code"],
        reason=node.get("reason", ""),
        message=f"{job}: {node['reason']}" if node.get("reason") else "",
        ended_at=_time(node.get("ended_at")),
    )


def _event(event: Mapping[str, Any]) -> JobEvent:
    return JobEvent(
        time=datetime.fromisoformat(event["time"]),
        subject=event["subject"],
        reason=event["reason"],
        message=event["message"],
    )


def _time(written: str | None) -> datetime | None:
    return None if written is None else datetime.fromisoformat(written)
