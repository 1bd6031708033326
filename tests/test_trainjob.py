"""The TrainJob client tells Dagster the truth about jobs that do well, fail, keep silent or never end."""

import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest

from forecast_assets.trainjob import JobFailedError, LocalLauncher, NoResultError, PipesTrainJobClient

REPORTING = """
    import json, os, pathlib, sys
    from dagster_pipes import open_dagster_pipes

    spec = json.loads(pathlib.Path(sys.argv[2]).read_text())
    if os.environ["RANK"] == "0":
        with open_dagster_pipes() as pipes:
            for epoch in range(spec["epochs"]):
                pipes.report_custom_message({"type": "epoch", "epoch": epoch})
            pipes.report_asset_materialization(
                metadata={"world_size": int(os.environ["WORLD_SIZE"])}, data_version="v1"
            )
"""
FAILING = """
    import os, sys
    if os.environ["RANK"] == "1":
        sys.exit("rank 1 has no more memory")
    import time; time.sleep(600)
"""
REFUSING = """
    import os, sys
    from dagster_pipes import open_dagster_pipes

    if os.environ["RANK"] == "0":
        with open_dagster_pipes() as pipes:
            pipes.report_custom_message({"type": "error", "message": "spec field epochs is -1"})
    sys.exit(2)
"""
SILENT = "pass"
ENDLESS = """
    import os, pathlib, time
    pathlib.Path(os.environ["PYTHONPATH"], "rank-" + os.environ["RANK"]).touch()
    time.sleep(600)
"""


def materialize(tmp_path: Path, script: str, spec: dict[str, Any], **kwargs: Any) -> dg.ExecuteInProcessResult:
    """Materialize an asset by a job of two processes that run ``script``."""
    (tmp_path / "job_script.py").write_text(textwrap.dedent(script))
    client = PipesTrainJobClient(LocalLauncher(num_proc_per_node=2, **kwargs), tmp_path / "jobs")
    received: list[Any] = []

    @dg.asset
    def a_model(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[Any]]:
        job = client.run(context=context, module="job_script", spec=spec, on_message=received.append)
        yield from job.get_results(metadata={"messages": len(received)})

    return dg.materialize([a_model])


@pytest.fixture(autouse=True)
def _scripts_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.fixture
def no_process_left(tmp_path: Path) -> Iterator[None]:
    """After the test no process of its jobs is alive."""
    yield
    mine = [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(tmp_path) in " ".join(process.info["cmdline"] or []) and process.status() != psutil.STATUS_ZOMBIE
    ]
    assert mine == []


@pytest.mark.usefixtures("no_process_left")
def test_the_stored_materialization_is_what_the_job_reported(tmp_path: Path) -> None:
    result = materialize(tmp_path, REPORTING, {"epochs": 3})

    (event,) = result.asset_materializations_for_node("a_model")
    assert event.metadata["world_size"].value == 2
    assert event.metadata["messages"].value == 3
    assert event.tags is not None
    assert event.tags["dagster/data_version"] == "v1"


@pytest.mark.usefixtures("no_process_left")
def test_two_nodes_of_two_processes_form_one_world_of_four(tmp_path: Path) -> None:
    result = materialize(tmp_path, REPORTING, {"epochs": 0}, num_nodes=2)

    (event,) = result.asset_materializations_for_node("a_model")
    assert event.metadata["world_size"].value == 4


@pytest.mark.usefixtures("no_process_left")
def test_a_failing_rank_ends_the_job_and_the_error_shows_what_it_wrote(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match="rank 1 has no more memory"):
        materialize(tmp_path, FAILING, {})


@pytest.mark.usefixtures("no_process_left")
def test_a_job_that_says_why_it_failed_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(JobFailedError, match=r"a-model-\w+-0: failed: spec field epochs is -1$"):
        materialize(tmp_path, REFUSING, {})


@pytest.mark.usefixtures("no_process_left")
def test_a_job_that_ends_well_but_reports_nothing_has_failed(tmp_path: Path) -> None:
    with pytest.raises(NoResultError, match="reported no result, so it counts as failed"):
        materialize(tmp_path, SILENT, {})


@pytest.mark.usefixtures("no_process_left")
def test_an_interrupt_stops_every_process_and_is_passed_on(tmp_path: Path) -> None:
    import _thread

    def interrupt_once_both_ranks_run() -> None:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("rank-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        _thread.interrupt_main()

    threading.Thread(target=interrupt_once_both_ranks_run).start()
    with pytest.raises((KeyboardInterrupt, dg.DagsterExecutionInterruptedError)):
        materialize(tmp_path, ENDLESS, {})
