"""Runs the benchmarks and writes what they show: ``python -m benchmarks.report [NAME …] [--quick | --render]``.

Their figures go to ``benchmarks/results/latest.json``, each with the command, the time and the machine that it is of,
and from there to the tables and the picture of ``docs/benchmarks.md`` and to the table in the README: no number there
is typed by hand. Benchmarks that are not named keep their figures. ``--render`` only writes the documents.

``--quick`` runs the short forms and compares how many times better than the alternative they are with
``benchmarks/results/quick.json``: one that takes a quarter longer beside its alternative, three times in a row, ends it
with status 1. ``--quick --accept`` writes that file.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.claims import BENCHMARKS
from benchmarks.document import write_documents
from benchmarks.figures import Benchmark
from benchmarks.processes import without_settings

RESULTS = Path(__file__).parent / "results"
TOLERANCE = 0.25
ATTEMPTS = 3
_VERSIONS = ("dagster", "feast", "torch", "pyarrow")


def main() -> int:
    """Run what was asked for. Returns 1 where a quick ratio has fallen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []], help="default: all")
    parser.add_argument("--quick", action="store_true", help="compare the short forms' ratios with the kept ones")
    parser.add_argument("--accept", action="store_true", help="with --quick: keep these ratios")
    parser.add_argument("--render", action="store_true", help="only write the documents")
    options = parser.parse_args()
    names: Sequence[str] = options.names or list(BENCHMARKS)
    if options.quick:
        return _quick([name for name in names if BENCHMARKS[name].quick is not None], accept=options.accept)
    latest = RESULTS / "latest.json"
    results: dict[str, Any] = json.loads(latest.read_text()) if latest.exists() else {}
    for name in [] if options.render else names:
        print(f"== {name}", flush=True)
        benchmark = BENCHMARKS[name]
        results[name] = {
            "command": " ".join(_command(benchmark, benchmark.arguments)[1:]),
            "measured": f"{datetime.now(UTC):%Y-%m-%d}",
            "machine": _machine(),
            "figures": _run(benchmark, benchmark.arguments),
        }
        _write(latest, {each: results[each] for each in BENCHMARKS if each in results})
    write_documents(results)
    return 0


def _quick(names: Sequence[str], *, accept: bool) -> int:
    kept_path = RESULTS / "quick.json"
    kept: dict[str, dict[str, float]] = json.loads(kept_path.read_text()) if kept_path.exists() else {}
    fallen = []
    for name in names:
        for attempt in range(1, ATTEMPTS + 1):
            ratios = _ratios(name)
            worse = fallen_ratios(kept.get(name, {}), ratios)
            if accept or not worse:
                break
            print(f"{name}: slower than kept, attempt {attempt} of {ATTEMPTS}: {_said(worse)}", flush=True)
        if accept:
            kept[name] = ratios
        elif worse:
            fallen.append(f"{name}: {_said(worse)}")
        print(f"{name}: " + ", ".join(f"{figure} {ratio:.2f}" for figure, ratio in ratios.items()), flush=True)
    if accept:
        _write(kept_path, kept)
    for line in fallen:
        print(f"more than {TOLERANCE:.0%} slower beside its alternative: {line}", file=sys.stderr)
    return 1 if fallen else 0


def fallen_ratios(kept: Mapping[str, float], now: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """The kept ratio and the present one (0 if there is none) of each that has become slower than is tolerated.

    Ratios are times: where ours takes ``1 + TOLERANCE`` as long, the ratio is the kept one divided by that.
    """
    pairs = {figure: (before, now.get(figure, 0.0)) for figure, before in kept.items()}
    return {figure: pair for figure, pair in pairs.items() if pair[1] < pair[0] / (1 + TOLERANCE)}


def _ratios(name: str) -> dict[str, float]:
    """Per figure that has an alternative, how many times better it is. The slowest few of so few reads say little."""
    benchmark = BENCHMARKS[name]
    assert benchmark.quick is not None  # noqa: S101 - as chosen
    figures = _run(benchmark, benchmark.quick, quiet=True)
    watched = [claim for claim in benchmark.claims if claim.figure.unit != "MB" and "p99" not in claim.figure.path]
    ratios = {claim.figure.path: claim.ratio(figures) for claim in watched}
    return {path: round(ratio, 3) for path, ratio in ratios.items() if ratio is not None}


def _said(worse: dict[str, tuple[float, float]]) -> str:
    return ", ".join(f"{figure} {now:.2f} times, was {before:.2f}" for figure, (before, now) in worse.items())


def _run(benchmark: Benchmark, arguments: Sequence[str], *, quiet: bool = False) -> dict[str, Any]:
    """Run it, show what it prints, and return the JSON object of its last line."""
    process = subprocess.Popen(
        _command(benchmark, arguments), env=without_settings(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None  # noqa: S101 - a pipe
    last = ""
    for line in process.stdout:
        if not quiet:
            print(line, end="", flush=True)
        last = line
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(_command(benchmark, arguments)[1:])} ended with status {process.returncode}")
    figures: dict[str, Any] = json.loads(last)
    return figures


def _command(benchmark: Benchmark, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.{benchmark.module}", *arguments]


def _machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        **{name: version(name) for name in _VERSIONS},
    }


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
