"""Keeps one local job: starts its nodes, notes what becomes of them, and ends all as soon as one fails.

A process of its own, started as ``python local_supervisor.py FOLDER``, so that a job outlives whoever submitted it
and its exit statuses are not lost with that process. Imports little: it starts in a tenth of a second.

It reads FOLDER/job.json, writes FOLDER/state.json (each time whole) and FOLDER/node-N.log, and holds a lock on
FOLDER/lock, inherited from the submitter, for as long as it lives: whoever can take the lock knows that it is gone.
"""

import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

# In the environment of every process of a job: by it they are found again, whatever became of their parents.
FOLDER_VARIABLE = "TRAINJOB_FOLDER"
# As on a cluster: what has not ended this long after SIGTERM is killed.
GRACE_SECONDS = 10.0

_TICK_SECONDS = 0.05
_PR_SET_CHILD_SUBREAPER = 36
_OOM_COUNTERS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")


def processes_of(folder: Path) -> list[psutil.Process]:
    """All living processes of the job in ``folder``, its supervisor included."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(FOLDER_VARIABLE) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def kill_processes_of(folder: Path, spared: int | None = None) -> bool:
    """SIGKILL until none is left but the process numbered ``spared``; False if one withstands that."""
    deadline = time.monotonic() + GRACE_SECONDS
    while left := [process for process in processes_of(folder) if process.pid != spared]:
        if time.monotonic() > deadline:
            return False
        for process in left:
            try:
                process.kill()  # psutil sees to it that the number has not gone to another process
            except psutil.NoSuchProcess:
                continue
        time.sleep(_TICK_SECONDS)
    return True


class Supervisor:
    """One job, from its start to its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._job: dict[str, Any] = json.loads((folder / "job.json").read_text())
        self._nodes: list[dict[str, Any]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._state: dict[str, Any] = {"phase": "running", "reason": "", "message": "", "events": []}
        self._told_to_end = False
        self._oom_kills = _oom_kills()

    def run(self) -> None:
        """Start the nodes and stay until all have ended."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        # Workers whose torchrun was killed become children of this process, not of init.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        deadline = time.monotonic() + (self._job["deadline_seconds"] or float("inf"))
        try:
            self._start_nodes()
        except OSError as error:
            self._fail("CannotStart", str(error))
        while self._state["phase"] == "running":
            self._reap()
            failed = [node for node in self._nodes if node["exit_code"]]
            if failed:
                self._fail(failed[0]["reason"], f"node {failed[0]['index']} ended with {failed[0]['exit_code']}")
            elif all(node["exit_code"] == 0 for node in self._nodes):
                self._state["phase"] = "complete"
            elif self._told_to_end:
                self._fail("Deleted", "the job was deleted")
            elif time.monotonic() > deadline:
                self._fail("DeadlineExceeded", f"it ran longer than {self._job['deadline_seconds']} s")
            else:
                time.sleep(_TICK_SECONDS)
        self._end_nodes()
        self._write(ended_at=_now())

    def _start_nodes(self) -> None:
        port = _free_port()
        for index in range(self._job["num_nodes"]):
            rendezvous = {
                "PET_NNODES": str(self._job["num_nodes"]),
                "PET_NPROC_PER_NODE": str(self._job["num_proc_per_node"]),
                "PET_NODE_RANK": str(index),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
                "JOB_COMPLETION_INDEX": str(index),
            }
            with (self._folder / f"node-{index}.log").open("wb") as log:
                process = subprocess.Popen(
                    self._job["command"],
                    env={**os.environ, **rendezvous},
                    cwd=self._job["working_directory"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._processes.append(process)
            self._nodes.append({"index": index, "pid": process.pid, "phase": "running", "exit_code": None})
        self._event("job", "Started", f"{len(self._nodes)} nodes")
        self._write()

    def _reap(self) -> None:
        """Note the nodes that have ended; take leave of orphans, too."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for node in self._nodes:
                if node["pid"] == pid:
                    self._note_end(node, os.waitstatus_to_exitcode(status))

    def _note_end(self, node: dict[str, Any], exit_code: int) -> None:
        ended_by_us = self._state["phase"] == "failed"
        reason = "Completed" if exit_code == 0 else "Terminated" if ended_by_us else self._failure(exit_code)
        node |= {
            "phase": "succeeded" if exit_code == 0 else "failed",
            "exit_code": exit_code,
            "reason": reason,
            "ended_at": _now(),
        }
        self._event(f"node-{node['index']}", reason, f"exit status {exit_code}")

    def _failure(self, exit_code: int) -> str:
        if _oom_kills() > self._oom_kills:
            return "OOMKilled"
        return "Killed" if exit_code == -signal.SIGKILL else "Error"

    def _end_nodes(self) -> None:
        """End what is left: the nodes by SIGTERM, which torchrun passes on, then every process by SIGKILL."""
        for node in self._nodes:
            if node["exit_code"] is None:
                os.kill(node["pid"], signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and any(node["exit_code"] is None for node in self._nodes):
            time.sleep(_TICK_SECONDS)
            self._reap()
        kill_processes_of(self._folder, spared=os.getpid())
        self._reap()

    def _fail(self, reason: str, message: str) -> None:
        self._state |= {"phase": "failed", "reason": reason, "message": message}
        self._event("job", reason, message)
        # Not yet written: the job has failed for others only when none of its processes is left.

    def _event(self, subject: str, reason: str, message: str) -> None:
        self._state["events"].append({"time": _now(), "subject": subject, "reason": reason, "message": message})

    def _write(self, **changes: Any) -> None:
        state = {**self._state, "nodes": self._nodes, "supervisor": os.getpid(), **changes}
        temporary = self._folder / ".state.json"
        try:
            temporary.write_text(json.dumps(state))
            temporary.replace(self._folder / "state.json")
        finally:
            temporary.unlink(missing_ok=True)

    def _on_sigterm(self, *_: Any) -> None:
        self._told_to_end = True


def _oom_kills() -> int:
    """How many processes the kernel has killed for lack of memory in this control group; 0 where it does not say."""
    for counter in _OOM_COUNTERS:
        try:
            found = re.search(r"^oom_kill (\d+)$", Path(counter).read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _now() -> str:
    return datetime.now(UTC).isoformat()


if __name__ == "__main__":
    # Nobody's child: the submitter need not wait for it, and does not take it along when it ends.
    if os.fork() > 0:
        os._exit(0)
    os.setsid()
    Supervisor(Path(sys.argv[1])).run()
