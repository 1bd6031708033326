"""Running a TrainJob on this machine: each "node" is a torchrun on the present interpreter."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_GRACE_SECONDS = 10.0
_TORCHRUN_LINE = re.compile(r"[WE]\d{4} .*torch/distributed/elastic/")


@dataclass(slots=True)
class LocalJob:
    """The running nodes of one job. ``folder`` holds each node's log as ``node-N.log``."""

    folder: Path
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def failed_node(self) -> int | None:
        """The lowest-numbered node that ended with a status other than 0."""
        return next((rank for rank, node in enumerate(self.nodes) if node.poll()), None)

    def finished(self) -> bool:
        """Every node has ended, or one has failed: the others then wait in vain for it."""
        return self.failed_node() is not None or all(node.poll() is not None for node in self.nodes)

    def log_tail(self, node: int, lines: int = 15) -> str:
        """The last lines that a node's processes wrote before torchrun noticed the failure.

        torchrun then adds a long report without the reason; it is shown only if nothing precedes it.
        """
        written = (self.folder / f"node-{node}.log").read_text(errors="replace").splitlines()
        noticed = next((n for n, line in enumerate(written) if _TORCHRUN_LINE.match(line)), len(written))
        return "\n".join((written[:noticed] or written)[-lines:])

    def stop(self) -> None:
        """End all processes of the job. torchrun puts its workers into sessions of their own, so the tree is walked."""
        processes: list[psutil.Process] = []
        for node in self.nodes:
            try:
                parent = psutil.Process(node.pid)
                processes += [parent, *parent.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
        for process in processes:
            _signal(process, signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=_GRACE_SECONDS)
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=_GRACE_SECONDS)
        for node in self.nodes:
            node.wait()


@dataclass(frozen=True, slots=True)
class LocalLauncher:
    """Starts jobs as torchrun process groups with the ``PET_*`` environment that Kubeflow Trainer injects.

    The command line is therefore the same here and on a cluster.
    """

    num_nodes: int = 1
    num_proc_per_node: int = 2

    def launch(self, folder: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> LocalJob:
        """Start ``torchrun`` with ``arguments`` on every node; logs go to ``folder``."""
        job = LocalJob(folder)
        port = _free_port()
        for rank in range(self.num_nodes):
            rendezvous = {
                "PET_NNODES": str(self.num_nodes),
                "PET_NPROC_PER_NODE": str(self.num_proc_per_node),
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
            }
            with (folder / f"node-{rank}.log").open("wb") as log:
                node = subprocess.Popen(
                    [sys.executable, "-m", "torch.distributed.run", *arguments],
                    env={"OMP_NUM_THREADS": "1", **os.environ, **environment, **rendezvous},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            job.nodes.append(node)
        return job


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
