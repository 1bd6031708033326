"""What the benchmarks need to know of processes, and what theirs may know of the caller."""

import multiprocessing
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from feature_repo.paths import PROJECT_ROOT

P = ParamSpec("P")
T = TypeVar("T")

# How the names begin of the variables that the project and Dagster read.
_SETTINGS = (
    *("ALERT_", "DAGSTER_", "DEPLOYMENT", "EMBEDDED_POSTGRES_", "FEAST_", "FORECAST_", "KUBEFLOW_", "LANDING_"),
    *("MLFLOW_", "POSTGRES_", "PROMETHEUS_", "SERVING_", "TRAIN_", "TRAINER_", "OMP_"),
)


def without_settings() -> dict[str, str]:
    """The environment without the caller's settings of the project, which may lead to a database that is in use."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)}


def environment_in(folder: Path) -> dict[str, str]:
    """That of a command of Dagster's that keeps everything in ``folder``.

    Its working folder has to be there too: in a checkout Dagster reads the owner's ``.env``, over the environment.
    """
    return {
        **without_settings(),
        "DAGSTER_HOME": str(folder / "home"),
        "FORECAST_DATA_DIR": str(folder / "data"),
        "PYTHONPATH": str(PROJECT_ROOT),
    }


def apart(measure: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call ``measure``, a function of a module, in a new process, which shares no memory with this one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, arguments, options)


def peak_mb() -> float:
    """The largest resident size of this process so far, in MiB.

    Not getrusage: its maximum is inherited from the process that started this one.
    """
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None  # noqa: S101 - Linux says so for every process
    return int(found[1]) / 1024
