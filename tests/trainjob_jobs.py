"""Tiny jobs for the TrainJob tests: scripts without torch, and an asset that runs one of them."""

import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from kubeflow.trainer import CustomTrainerContainer

from forecast_assets.trainjob import LocalPlatform, PipesTrainJobClient
from forecast_assets.trainjob.local_supervisor import FOLDER_VARIABLE

# What every script begins with; NODE is the node's index, SPEC the spec.
PREAMBLE = """
import json, os, pathlib, sys, time
from dagster_pipes import open_dagster_pipes
NODE = int(os.environ["PET_NODE_RANK"])
SPEC = json.loads(pathlib.Path(sys.argv[1]).read_text())
HERE = pathlib.Path(__file__).parent
"""
REPORTING = """
if NODE == 0:
    with open_dagster_pipes() as pipes:
        for epoch in range(SPEC.get("epochs", 0)):
            pipes.report_custom_message({"type": "epoch", "epoch": epoch})
        pipes.report_asset_materialization(metadata={"nodes": int(os.environ["PET_NNODES"])}, data_version="v1")
"""
ENDLESS = """
(HERE / f"started-{NODE}").touch()
time.sleep(600)
"""
WAITING = """
(HERE / f"started-{NODE}").touch()
while not (HERE / "go").exists():
    time.sleep(0.02)
"""
Interrupted = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)


class Jobs:
    """Jobs in one folder, and an asset ``a_model`` that runs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.platform = LocalPlatform(folder / "jobs")
        self.client = PipesTrainJobClient(self.platform, folder / "records")

    def script(self, text: str) -> Path:
        """Write a script."""
        path = self.folder / "job_script.py"
        path.write_text(PREAMBLE + textwrap.dedent(text))
        return path

    def asset(self, trainer: Any, **arguments: Any) -> dg.AssetsDefinition:
        """An asset ``a_model`` materialized by a job."""
        client = self.client

        @dg.asset
        def a_model(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
            job = client.run(context=context, trainer=trainer, **arguments)
            yield from job.get_results()

        return a_model

    def asset_of(self, script: str, **arguments: Any) -> dg.AssetsDefinition:
        """An asset materialized by a job of nodes that run ``script`` once each."""
        given = {"spec": {}, "command": ["python"], "args": [str(self.script(script)), "{spec}"], **arguments}
        return self.asset(CustomTrainerContainer(image="unused"), **given)

    def materialize(self, script: str, **arguments: Any) -> dg.ExecuteInProcessResult:
        """Materialize the asset of ``script`` here and now."""
        return dg.materialize([self.asset_of(script, **arguments)])

    def names(self) -> list[str]:
        """Jobs that there are, oldest first."""
        return [job.name for job in self.platform.list_jobs({})]

    def processes(self) -> list[psutil.Process]:
        """Everything alive that belongs to a job in the folder."""
        return processes_below(self.folder)


def processes_below(folder: Path) -> list[psutil.Process]:
    """Living processes of jobs whose folder is somewhere in ``folder``."""
    found = []
    for process in psutil.process_iter():
        try:
            job = process.environ().get(FOLDER_VARIABLE, "")
            if job.startswith(f"{folder}/") and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something that other processes do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def logged(result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance) -> Sequence[str]:
    """What the run has logged."""
    return [entry.user_message for entry in instance.all_logs(result.run_id)]


def meanwhile(do: Callable[[], object]) -> threading.Thread:
    """Do something while this thread is busy with a run."""
    thread = threading.Thread(target=do)
    thread.start()
    return thread
