"""``python -m tests.fuzz --seed S --n N``: N mutated drops; exit status 1 if one does damage or ends in a traceback."""

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psycopg

from benchmarks.blocks import write_block
from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings

from .campaign import Campaign, table_of


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Mutated drops, and what becomes of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--n", type=int, default=2_000, help="number of drops (default: 2,000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one, to repeat a case")
    parser.add_argument("--document", type=Path, help="write the table into this document")
    parser.add_argument("--no-database", action="store_true", help="do not publish what is accepted")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz ") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        settings = None if arguments.no_database else _database(folder / "postgres")
        try:
            campaign = Campaign(arguments.seed, folder, settings)
            for outcome in campaign.cases(range(arguments.first, arguments.first + arguments.n)):
                if outcome.faults or arguments.n == 1:
                    print(
                        f"seed {arguments.seed}, case {outcome.number} ({' + '.join(outcome.kinds)}): "
                        f"{outcome.verdict} {outcome.says[:300]}",
                        *outcome.faults,
                        sep="\n    ",
                        flush=True,
                    )
        finally:
            embedded_postgres.stop(folder / "postgres")
    outcomes = campaign.outcomes
    lines = ["| mutation | drops | refused | warned about | accepted |", "|---|---:|---:|---:|---:|"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in table_of(outcomes)]
    print(*lines, sep="\n")
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    damaged = sum(bool(outcome.faults) for outcome in outcomes)
    print(f"\n{len(outcomes):,} drops in {time.monotonic() - started:.0f} s: {dict(verdicts)}; violated: {damaged}")
    if arguments.document:
        said = (
            f"{len(outcomes):,} drops of seed {arguments.seed}: {verdicts['refused']:,} refused, "
            f"{verdicts['warned']:,} warned about, {verdicts['accepted']:,} accepted, {damaged} violated."
        )
        write_block(arguments.document, "fuzz", [said, "", *lines])
    return 1 if damaged else 0


def _database(root: Path) -> PostgresSettings:
    settings = PostgresSettings.embedded(root)
    with psycopg.connect(settings.url, autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    return replace(settings)


if __name__ == "__main__":
    sys.exit(main())
