"""From a drop to forecasts at full size: ``python -m benchmarks.pipeline [--landing DIR]``.

Each part runs as a user would start it, in a process of its own, in a new data folder: loading the code location, the
whole graph, and the same graph again with nothing new. Settings of the caller, in the environment or in the checkout's
`.env`, are left out. Memory is the largest resident size of any process of the run, and of all of them together without
PostgreSQL's, which are no children of theirs; what processes share is counted in each.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.processes import environment_in
from feature_repo import embedded_postgres

_SAMPLE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Measurement:
    """One command: wall seconds, and the peak resident size in MB of its largest process and of all together."""

    seconds: float
    largest_process_mb: float
    process_tree_mb: float


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--landing", type=Path, help="folder with the three CSV files; default: the sample data")
    landing = parser.parse_args().landing
    with tempfile.TemporaryDirectory(prefix="bench-pipeline-") as name:
        folder = Path(name).resolve()
        environment = environment_in(folder)
        if landing:
            environment["LANDING_DIR"] = str(landing.resolve())
        (folder / "home").mkdir()
        graph = ["-m", "dagster", "asset", "materialize", "-m", "forecast_assets.definitions", "--select", "*"]
        results = {
            "code_location": _run(["-c", "import forecast_assets.definitions"], environment, folder),
            "whole_graph": _run(graph, environment, folder),
            "whole_graph_again": _run(graph, environment, folder),
        }
        embedded_postgres.stop(folder / "data" / "postgres")
    print(f"{'':20}{'seconds':>10}{'largest process, MB':>22}{'all processes, MB':>20}")
    for name, result in results.items():
        print(f"{name:20}{result.seconds:10.1f}{result.largest_process_mb:22,.0f}{result.process_tree_mb:20,.0f}")
    print(
        json.dumps(
            {
                "code_location_seconds": round(results["code_location"].seconds, 2),
                "whole_graph_seconds": round(results["whole_graph"].seconds, 1),
                "whole_graph_again_seconds": round(results["whole_graph_again"].seconds, 1),
                "largest_process_mb": round(max(result.largest_process_mb for result in results.values())),
                "all_processes_mb": round(max(result.process_tree_mb for result in results.values())),
            }
        )
    )
    return 0


def _run(arguments: list[str], environment: dict[str, str], folder: Path) -> Measurement:
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    peaks = [0.0, 0.0]
    watcher = threading.Thread(target=_watch, args=(process, peaks), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.monotonic() - started
    watcher.join()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{output[-3000:]}")
    return Measurement(seconds, peaks[0] / 2**20, peaks[1] / 2**20)


def _watch(process: "subprocess.Popen[str]", peaks: list[float]) -> None:
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            sizes = [each.memory_info().rss for each in (root, *root.children(recursive=True))]
        except psutil.NoSuchProcess:
            continue
        peaks[0] = max(peaks[0], *sizes)
        peaks[1] = max(peaks[1], sum(sizes))
        time.sleep(_SAMPLE_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
