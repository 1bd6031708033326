"""``make demo``: the whole graph in one go, told as it happens, and a summary at the end."""

import logging
import os
import shlex
import sys
import time
from collections.abc import Iterable

import dagster as dg
import psycopg

from feature_repo.paths import PROJECT_ROOT
from forecast_assets.definitions import defs
from forecast_assets.interruption import interruptions_sent_again
from forecast_assets.resources import Artifacts, Postgres


def main() -> int:
    """Materialize every asset in this process. Returns the exit status: 0 for success, 1 for a failed asset."""
    _quieten()
    os.environ.setdefault("DAGSTER_HOME", str(PROJECT_ROOT))
    os.environ.setdefault("TRAIN_ECHO", "0")  # the job's own lines are in its folder
    artifacts = Artifacts()
    landing = os.environ.get("LANDING_DIR")
    _say("Weekly demand forecasts, from CSV files to the coming week")
    _say(f"  drop:     {landing or 'a generated sample data set (LANDING_DIR=folder for your own)'}")
    _say(f"  written:  {artifacts.root}\n")
    started = time.monotonic()
    if not execute("full_refresh"):
        _say("\nThe run failed; what went wrong is said above at ✗. Nothing was half published: mend it and run again.")
        return 1
    _summarize(artifacts, time.monotonic() - started)
    setting = f"LANDING_DIR={shlex.quote(os.path.abspath(landing))} " if landing else ""
    _say(f"Next:      {setting}make dev     the same graph in the Dagster UI, http://localhost:3000")
    _say("           make psql    then: SELECT * FROM weekly_forecasts ORDER BY week DESC, forecast DESC LIMIT 10;")
    return 0


def execute(job: str) -> bool:
    """Run ``job`` in this process, told as it happens. Returns whether it succeeded."""
    try:
        with interruptions_sent_again(), dg.DagsterInstance.get() as instance:
            result = defs.resolve_job_def(job).execute_in_process(
                instance=instance, run_config={"loggers": {"progress": {}}}, raise_on_error=False
            )
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        _say("  ✗ interrupted")
        return False
    if not result.success and not any(event.is_step_failure for event in result.all_events):
        # Between two steps, or before the first, there is none to say it.
        ends = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED)
        said = [event.message for event in result.all_events if event.event_type in ends and event.message]
        _say(f"  ✗ {said[-1] if said else 'interrupted'}")
    return result.success


def _summarize(artifacts: Artifacts, seconds: float) -> None:
    from trainer.bundle import read_sidecar

    champion = artifacts.models.champion()
    assert champion is not None  # noqa: S101 - champion_model succeeded
    facts = read_sidecar(champion)
    with psycopg.connect(Postgres().settings().url) as connection:
        counts = connection.execute("SELECT table_name, row_count FROM feature_table_versions ORDER BY 1").fetchall()
        forecasts = connection.execute(
            "SELECT week, store, dept, forecast, count(*) OVER () FROM weekly_forecasts "
            "WHERE week = (SELECT max(week) FROM weekly_forecasts) ORDER BY forecast DESC LIMIT 5"
        ).fetchall()
    current = artifacts.frames.current()
    frame_rows = current[1].rows if current else 0

    _say(f"\nDone in {seconds:.0f} s")
    _table(
        [(f"rows in {name}", f"{rows:,}") for name, rows in counts]
        + [("rows in the training frame", f"{frame_rows:,}")]
    )
    first, last = facts["validation"]["weeks"]
    _say(f"\nValidation WMAE, dollars (weeks {first} to {last})")
    scores = {"this model": facts["scores"], **facts["baselines"]}
    _table(
        [(name, f"{score['wmae']:,.0f}") for name, score in sorted(scores.items(), key=lambda item: item[1]["wmae"])]
    )
    _say(f"\nForecasts for the week of {forecasts[0][0]}: {forecasts[0][4]:,} series, the largest")
    _table([(f"store {store}, dept {dept}", f"${forecast:,.0f}") for _, store, dept, forecast, _ in forecasts])
    _say(f"\nPictures:  {artifacts.root / 'pictures'}")
    _say(f"Model:     {champion} (MODEL_CARD.md says what it is)")


def _table(rows: Iterable[tuple[str, str]]) -> None:
    for name, value in rows:
        _say(f"  {name:<32}{value:>12}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _quieten() -> None:
    """Keep other libraries' notes off the screen; what matters is in the run's own lines and in the UI."""
    logging.captureWarnings(True)
    logging.getLogger().setLevel(logging.ERROR)


if __name__ == "__main__":
    raise SystemExit(main())
