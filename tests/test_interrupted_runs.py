"""A run that is interrupted, by Ctrl-C or from without, ends with a sentence: within a step or between two."""

import os
import signal
import time
import weakref
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from forecast_assets import demo
from forecast_assets.console import progress_logger


@dg.asset
def first() -> None:
    pass


@dg.asset(deps=[first])
def second() -> None:
    pass


@dg.asset
def interrupted_in_a_callback() -> None:
    forgotten: set[int] = _Set()
    noticed = weakref.ref(forgotten, lambda _: signal.raise_signal(signal.SIGTERM))
    del forgotten
    time.sleep(10)
    del noticed


class _Set(set[int]):
    """One that can be referred to weakly."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Dagster home of the tests' own."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize(
    ("moment", "step", "sentence"),
    [
        (dg.DagsterEventType.RUN_START, None, 'Execution of run for "both" failed. Execution was interrupted'),
        (dg.DagsterEventType.STEP_START, "first", "first: interrupted"),
        (dg.DagsterEventType.STEP_SUCCESS, "first", "second: interrupted"),
    ],
    ids=["before the first step", "within a step", "between two steps"],
)
def test_an_interrupted_run_says_so(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    moment: dg.DagsterEventType,
    step: str | None,
    sentence: str,
) -> None:
    handle = dg.DagsterInstance.handle_new_event

    def interrupted(instance: dg.DagsterInstance, entry: dg.EventLogEntry, **options: Any) -> None:
        handle(instance, entry, **options)
        if (entry.dagster_event_type, entry.step_key) == (moment, step):
            os.kill(os.getpid(), number)

    both = dg.define_asset_job("both", [first, second])
    monkeypatch.setattr(
        demo, "defs", dg.Definitions([first, second], jobs=[both], loggers={"progress": progress_logger})
    )
    monkeypatch.setattr(dg.DagsterInstance, "handle_new_event", interrupted)
    monkeypatch.setenv("DAGSTER_HOME", str(home))

    assert not demo.execute("both")

    (said,) = [line for line in capsys.readouterr().out.splitlines() if "✗" in line]
    assert f"✗ {sentence}" in said


def test_an_interruption_that_python_ignores_is_not_lost(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Torture, seed 1, case 249: SIGTERM struck in a weak reference's callback, and the run went on.
    job = dg.define_asset_job("one", [interrupted_in_a_callback])
    monkeypatch.setattr(
        demo,
        "defs",
        dg.Definitions([interrupted_in_a_callback], jobs=[job], loggers={"progress": progress_logger}),
    )
    monkeypatch.setenv("DAGSTER_HOME", str(home))

    assert not demo.execute("one")

    said = capfd.readouterr()
    assert "✗ interrupted_in_a_callback: interrupted" in said.out
    assert "Traceback" not in said.out + said.err
