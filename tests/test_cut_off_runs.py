"""A run whose process is gone is marked as failed, so that it is started again; one that lives is left alone."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import dagster as dg
import psutil
import pytest
import yaml
from dagster._core.events import EngineEventData
from dagster._core.launcher import DefaultRunLauncher
from dagster._core.storage.tags import WILL_RETRY_TAG
from dagster._core.test_utils import create_run_for_test

from feature_repo.paths import PROJECT_ROOT
from forecast_assets.cut_off_runs import cut_off_runs_sensor


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(
        {
            "run_launcher": {"module": DefaultRunLauncher.__module__, "class": DefaultRunLauncher.__name__},
            "run_retries": yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())["run_retries"],
        }
    ) as instance:
        yield instance


def started_run(instance: dg.DagsterInstance, pid: int) -> str:
    """A run that counts as running, in the process of this number."""
    run = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTING)
    instance.report_engine_event("Started process for run", run, EngineEventData.in_process(pid))
    instance.report_dagster_event(
        dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=run.job_name), run.run_id
    )
    return run.run_id


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def will_be_retried(instance: dg.DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    return run is not None and run.tags.get(WILL_RETRY_TAG) == "true"


def look(instance: dg.DagsterInstance) -> str:
    skipped = cut_off_runs_sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(skipped, dg.SkipReason)
    return skipped.skip_message or ""


def test_a_run_whose_process_is_gone_fails_and_others_go_on(instance: dg.DagsterInstance) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone, alive = started_run(instance, ended.pid), started_run(instance, os.getpid())

    assert look(instance) == "1 of 2 runs were cut off"
    assert status(instance, gone) == dg.DagsterRunStatus.FAILURE
    assert will_be_retried(instance, gone)
    assert status(instance, alive) == dg.DagsterRunStatus.STARTED
    assert look(instance) == "0 of 1 runs were cut off"


def test_a_later_process_of_the_same_number_is_not_taken_for_the_runs(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started_run(instance, os.getpid())
    monkeypatch.setattr("psutil.Process.create_time", lambda _process: time.time() + 60)

    look(instance)

    assert status(instance, run) == dg.DagsterRunStatus.FAILURE


def test_a_run_that_has_succeeded_while_it_was_looked_for_stays_as_it_is(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = started_run(instance, os.getpid())

    def ends(pid: int) -> None:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        event = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_SUCCESS.value, job_name=run.job_name)
        instance.report_dagster_event(event, run_id)
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr("psutil.Process", ends)

    assert look(instance) == "0 of 1 runs were cut off"
    assert status(instance, run_id) == dg.DagsterRunStatus.SUCCESS
