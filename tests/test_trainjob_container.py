"""The same jobs in containers: for real where TRAINJOB_TEST_IMAGE names an image with torch and dagster-pipes.

Folders that the image lacks may be named in TRAINJOB_TEST_SHARED, and the engine's socket in TRAIN_CONTAINER_SOCKET.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from kubeflow.trainer import CustomTrainer, CustomTrainerContainer
from trainjob_jobs import Jobs

from forecast_assets.trainjob import ContainerPlatform, PipesTrainJobClient, errors
from forecast_assets.trainjob.container import _as_function, run_module
from forecast_assets.trainjob.errors import JobDetails
from forecast_assets.trainjob.observation import Submission

IMAGE = os.environ.get("TRAINJOB_TEST_IMAGE", "")
with_engine = pytest.mark.skipif(not IMAGE, reason="TRAINJOB_TEST_IMAGE names no image")
SCRIPT = """
import json, os, pathlib, sys, time
from dagster_pipes import open_dagster_pipes
spec = json.loads(pathlib.Path(sys.argv[1]).read_text())
if spec["do"] == "fail" and os.environ["RANK"] == "1":
    sys.exit("rank one gives up")
if spec["do"] != "report":
    time.sleep(600)
if os.environ["RANK"] == "0":
    with open_dagster_pipes() as pipes:
        pipes.report_asset_materialization(metadata={"nodes": int(os.environ["WORLD_SIZE"])}, data_version="v1")
"""
DETAILS = JobDetails(name="a-job", namespace="container")


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Jobs in containers that see the folder of the test."""
    jobs = Jobs(tmp_path)
    shared = [tmp_path, *map(Path, filter(None, os.environ.get("TRAINJOB_TEST_SHARED", "").split(":")))]
    platform = ContainerPlatform(
        folder=tmp_path / "jobs", shared=shared, socket=os.environ.get("TRAIN_CONTAINER_SOCKET")
    )
    jobs.client = PipesTrainJobClient(platform, tmp_path / "records")
    (tmp_path / "container_script.py").write_text(SCRIPT)
    yield jobs
    for job in platform.list_jobs({}):
        platform.delete(job.name)


def asset(jobs: Jobs, do: str, deadline_seconds: int | None = None) -> dg.AssetsDefinition:
    path = f"{Path(sys.executable).parent.resolve()}:/usr/local/bin:/usr/bin:/bin"
    return jobs.asset(
        CustomTrainerContainer(image=IMAGE, env={"PYTHONPATH": str(jobs.folder), "PATH": path}),
        command=["torchrun"],
        args=["-m", "container_script", "{spec}"],
        spec={"do": do},
        num_nodes=2,
        deadline_seconds=deadline_seconds,
    )


@with_engine
def test_two_containers_are_one_job(jobs: Jobs) -> None:
    result = dg.materialize([asset(jobs, "report")])

    (event,) = result.asset_materializations_for_node("a_model")
    assert event.metadata["nodes"].value == 2


@with_engine
def test_a_rank_that_fails_in_a_container_ends_the_job_and_is_quoted(jobs: Jobs) -> None:
    with pytest.raises(errors.JobFailedError, match="rank one gives up"):
        dg.materialize([asset(jobs, "fail")])


@with_engine
def test_an_endless_job_in_containers_is_ended_at_its_deadline(jobs: Jobs) -> None:
    with pytest.raises(errors.DeadlineExceededError, match="longer than 5 s"):
        dg.materialize([asset(jobs, "sleep", deadline_seconds=5)])


def test_a_module_run_by_torchrun_is_shipped_as_a_function() -> None:
    trainer = CustomTrainerContainer(image="an-image", num_nodes=2, env={"SEED": "7"})
    submission = Submission(name="a-job", trainer=trainer, command=["torchrun"], args=["-m", "trainer", "--spec", "s"])

    shipped = _as_function(submission, DETAILS)

    assert shipped == CustomTrainer(
        func=run_module,
        func_args={"module": "trainer", "arguments": ["--spec", "s"]},
        image="an-image",
        num_nodes=2,
        env={"SEED": "7"},
    )


def test_what_containers_cannot_run_is_refused(tmp_path: Path) -> None:
    submission = Submission(name="a-job", trainer=CustomTrainerContainer(image="an-image"), command=["bash"])

    with pytest.raises(errors.NotSubmittedError, match="begins with 'torchrun -m'"):
        ContainerPlatform(folder=tmp_path).submit(submission)
    assert list(tmp_path.iterdir()) == []
