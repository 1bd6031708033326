"""From a new week in the landing zone to new forecasts: ``python -m benchmarks.drop_to_forecast [--size 1]``.

Starts ``dagster dev`` in a folder of its own, as ``make dev`` does, on the sample data without its last week, and waits
for the first forecasts. Then the last week is dropped; then the same files again; then a broken one. Nothing else is
done but looking. Where the model that is trained on the new week is not promoted, there are no forecasts by it, and the
figure is left out.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import dagster as dg
import psycopg

from benchmarks.processes import environment_in
from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings
from feature_repo.paths import PROJECT_ROOT
from forecast_assets.sample_data import write_sample_data

LAST_WEEK_BUT_ONE = date(2012, 10, 19)
COMING_WEEK = date(2012, 11, 2)
LIMIT_SECONDS = 900
QUIET_SECONDS = 45

T = TypeVar("T")


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=float, default=1.0, help="of the sample data; 1 is 421,570 rows")
    size = parser.parse_args().size
    with tempfile.TemporaryDirectory(prefix="bench-drop-") as name, _system(Path(name)) as system:
        figures = _watch(system, size)
        for label, value in figures.items():
            print(f"{label.replace('_', ' '):<58}{'-' if value is None else value:>10}")
    print(json.dumps({"size": size, **figures}))
    return 0


class Made(NamedTuple):
    """An asset as it was made: when, and what was said of it."""

    time: float
    metadata: Mapping[str, dg.MetadataValue[Any]]


class System:
    """A running ``dagster dev`` with a landing zone and a database of its own."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder, self.instance = folder, instance
        self.landing = folder / "landing"

    def drop(self, source: Path) -> float:
        """Put the files of ``source`` into the landing zone, each in one step. Returns the time."""
        self.landing.mkdir(exist_ok=True)
        for path in source.iterdir():
            shutil.copy(path, self.folder / path.name)
            (self.folder / path.name).replace(self.landing / path.name)
        return time.time()

    def made(self, asset: str, after: float = 0.0) -> Made | None:
        """The asset as it was last made, if that was later than ``after``."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(asset))
        if event is None or event.asset_materialization is None or event.timestamp <= after:
            return None
        return Made(event.timestamp, event.asset_materialization.metadata)

    def runs(self, after: float = 0.0, statuses: Sequence[dg.DagsterRunStatus] = ()) -> list[dg.RunRecord]:
        """The runs of these statuses that were created later than ``after``, newest first."""
        records = self.instance.get_run_records(dg.RunsFilter(statuses=statuses))
        return [record for record in records if record.create_timestamp.timestamp() > after]

    @property
    def busy(self) -> bool:
        """Some run is waiting or going on."""
        status = dg.DagsterRunStatus
        return bool(self.runs(statuses=[status.QUEUED, status.STARTING, status.STARTED]))

    def forecasts(self) -> dict[str, set[str]]:
        """The model versions of the forecasts for each week."""
        settings = PostgresSettings.embedded(self.folder / "data" / "postgres")
        with psycopg.connect(settings.url) as connection:
            try:
                rows = connection.execute("SELECT DISTINCT week::text, model_version FROM weekly_forecasts").fetchall()
            except psycopg.errors.UndefinedTable:
                return {}
        return {week: {version for other, version in rows if other == week} for week, _ in rows}


def _watch(system: System, size: float) -> dict[str, float | None]:
    earlier, latest = system.folder / "earlier", system.folder / "latest"
    write_sample_data(earlier, size=size, through=LAST_WEEK_BUT_ONE)
    write_sample_data(latest, size=size)

    dropped = system.drop(earlier)
    _wait(lambda: system.made("weekly_forecasts"), "the first forecasts")
    first = time.time() - dropped
    _wait(lambda: not system.busy, "an idle system")
    time.sleep(QUIET_SECONDS)

    known = {version for versions in system.forecasts().values() for version in versions}
    dropped = system.drop(latest)
    week = COMING_WEEK.isoformat()
    noticed = _wait(lambda: system.runs(after=dropped), "a run")[-1].create_timestamp.timestamp()
    forecast = _wait(lambda: time.time() if week in system.forecasts() else None, "forecasts of the new week")
    trained = _wait(lambda: system.made("candidate_model", after=dropped), "a candidate")
    decided = _wait(lambda: system.made("champion_model", after=trained.time), "a decision")
    by_new_model = None
    if decided.metadata["promoted"].value:
        by_new_model = _wait(lambda: time.time() if system.forecasts()[week] - known else None, "its forecasts")
    else:
        print("the model trained on the new week was refused: the forecasts stay those of the champion before it")
    _wait(lambda: not system.busy, "an idle system")
    time.sleep(QUIET_SECONDS)

    before, quiet = system.forecasts(), time.time()
    system.drop(latest)
    time.sleep(QUIET_SECONDS)
    runs_for_the_same = len(system.runs(after=quiet))

    train = system.folder / "broken" / "train.csv"
    train.parent.mkdir()
    train.write_text((latest / "train.csv").read_text().replace("2010-02-12", "2010-02-31", 1))
    dropped_broken = system.drop(train.parent)
    failed = [dg.DagsterRunStatus.FAILURE]
    (refusal,) = _wait(lambda: system.runs(after=dropped_broken, statuses=failed), "a refusal")
    (reason,) = (system.landing / "quarantine").rglob("train.csv.reason.txt")
    print(f"refused: {reason.read_text().splitlines()[0]}\n")
    if system.forecasts() != before:
        raise SystemExit("the broken file changed the forecasts")
    return {
        "first_forecasts_seconds": round(first, 1),
        "drop_to_ingestion_seconds": round(noticed - dropped, 1),
        "drop_to_forecasts_seconds": round(forecast - dropped, 1),
        "drop_to_forecasts_by_a_new_model_seconds": by_new_model and round(by_new_model - dropped, 1),
        "runs_for_the_same_files_again": runs_for_the_same,
        "broken_file_to_refusal_seconds": round((refusal.end_time or 0) - dropped_broken, 1),
    }


def _wait(look: Callable[[], T | None], what: str) -> T:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not (found := look()):
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} did not come within {LIMIT_SECONDS} s")
        time.sleep(0.5)
    return found


@contextmanager
def _system(folder: Path) -> Iterator[System]:
    home = folder / "home"
    home.mkdir()
    shutil.copy(PROJECT_ROOT / "dagster.yaml", home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**environment_in(folder), "LANDING_DIR": str(folder / "landing")}
    os.chdir(folder)  # the instance's folders are relative, as in a checkout
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "dagster", "dev", "-m", "forecast_assets.definitions", "-p", port]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, preexec_fn=_heed_interrupts)
    try:
        with dg.DagsterInstance.from_config(str(home)) as instance:
            yield System(folder, instance)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        embedded_postgres.stop(folder / "data" / "postgres")
        os.chdir(PROJECT_ROOT)


def _heed_interrupts() -> None:
    """A shell has those that it starts in the background ignore interrupts, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    raise SystemExit(main())
