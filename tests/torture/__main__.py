"""``python -m tests.torture --seed S --n N``: exit status 1 if something was not as it should be afterwards."""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from .campaign import Campaign, table_of
from .place import Place


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description="Runs while something goes wrong")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--n", type=int, default=60, help="number of faults (default: 60)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one, to repeat a case")
    parser.add_argument("--only", default="", help="kinds whose name holds this text")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after the case that is then running")
    parser.add_argument("--logs", type=Path, help="folder to copy the runs' output to")
    parser.add_argument("--folder", type=Path, help="keep what cases start from there, for the next call")
    arguments = parser.parse_args()
    started = time.monotonic()
    os.environ["EMBEDDED_POSTGRES_IDLE_SECONDS"] = "0.2"
    os.environ["PYTHONWARNINGS"] = "ignore"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as name:
        root = (arguments.folder or Path(name)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        root.chmod(0o755)
        place = Place(root)
        place.make()
        campaign = Campaign(arguments.seed, place)
        try:
            campaign.prepare()
            print(
                f"prepared in {time.monotonic() - started:.0f} s; undisturbed: "
                + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in campaign.seconds.items()),
                flush=True,
            )
            for outcome in campaign.cases(range(arguments.first, arguments.first + arguments.n), arguments.only):
                mark = "VIOLATED" if outcome.violations else "recovered" if outcome.injected else "not reached"
                print(
                    f"{outcome.number:4} {outcome.kind}, {outcome.stage} ({outcome.done}): {outcome.disturbed}, "
                    f"{mark}, {outcome.seconds:.0f} s {outcome.says}",
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
    print("\n| fault | injected | recovered | violated |\n|---|---:|---:|---:|")
    rows = table_of(campaign.outcomes)
    for row in rows:
        print("|", " | ".join(map(str, row)), "|")
    injected, recovered, violated = (
        sum(row[1] for row in rows),
        sum(row[2] for row in rows),
        sum(row[3] for row in rows),
    )
    print(f"| all | {injected} | {recovered} | {violated} |")
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())
