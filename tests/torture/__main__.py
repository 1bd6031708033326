"""``python -m tests.torture --seed S --n N``: exit status 1 if something was not as it should be afterwards."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.blocks import write_block
from feature_repo.paths import PROJECT_ROOT

from .campaign import Campaign, Outcome, table_of
from .place import Place


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Runs while something goes wrong")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--n", type=int, default=60, help="number of faults (default: 60)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one, to repeat a case")
    parser.add_argument("--only", default="", help="kinds whose name holds this text")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after the case that is then running")
    parser.add_argument("--logs", type=Path, help="folder to copy the runs' output to")
    parser.add_argument("--folder", type=Path, help="keep states and outcomes there, for the next call to go on from")
    parser.add_argument("--document", type=Path, help="write the table into this document")
    arguments = parser.parse_args()
    os.environ["EMBEDDED_POSTGRES_IDLE_SECONDS"] = "0.2"
    os.environ["PYTHONWARNINGS"] = "ignore"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as name:
        root = (arguments.folder or Path(name)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o755)
        code = _code()
        if _of_other_code(root, code):
            parser.error(f"{root} holds a campaign of other code than {code}: name another folder")
        outcomes = _run(root, arguments)
    rows = table_of(outcomes)
    lines = ["| fault | injected | recovered | violated |", "|---|---:|---:|---:|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    print("", *lines, sep="\n")
    if arguments.document:
        _, injected, recovered, violated = rows[-1]
        said = f"{injected} faults of seed {arguments.seed}, code {code}: {recovered} recovered, {violated} violated."
        write_block(arguments.document, "torture", [said, "", *lines])
    return 1 if any(outcome.violations for outcome in outcomes) else 0


def _code() -> str:
    """Which code is tried: the commit, and whether files differ from it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=PROJECT_ROOT, check=False, capture_output=True, text=True
    )
    return described.stdout.strip() or "without a commit"


def _of_other_code(root: Path, code: str) -> bool:
    kept = root / "code"
    if not kept.exists():
        kept.write_text(code)
    return kept.read_text() != code


def _run(root: Path, arguments: argparse.Namespace) -> list[Outcome]:
    """Run the cases asked for. Returns the outcome of each case in this folder; a violation, where there was one."""
    started = time.monotonic()
    kept = root / f"outcomes-{arguments.seed}.jsonl"
    place = Place(root)
    place.make()
    campaign = Campaign(arguments.seed, place)
    try:
        campaign.prepare()
        undisturbed = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in campaign.seconds.items())
        print(f"prepared in {time.monotonic() - started:.0f} s; undisturbed: {undisturbed}", flush=True)
        for outcome in campaign.cases(range(arguments.first, arguments.first + arguments.n), arguments.only):
            with kept.open("a") as file:
                file.write(json.dumps(asdict(outcome)) + "\n")
            print(
                f"{outcome.number:4} {outcome.kind}, {outcome.stage} ({outcome.done}): {outcome.disturbed}, "
                f"{outcome.mark}, {outcome.seconds:.0f} s {outcome.says}",
                *outcome.violations,
                sep="\n       ",
                flush=True,
            )
            if time.monotonic() - started > arguments.seconds:
                break
    finally:
        if arguments.logs:
            arguments.logs.mkdir(parents=True, exist_ok=True)
            for log in (root / "logs").iterdir():
                (arguments.logs / log.name).write_bytes(log.read_bytes())
        place.remove()
    outcomes = [Outcome(**json.loads(line)) for line in kept.read_text().splitlines()]
    worst = {(each.number, each.kind): each for each in sorted(outcomes, key=lambda each: bool(each.violations))}
    return list(worst.values())


if __name__ == "__main__":
    sys.exit(main())
