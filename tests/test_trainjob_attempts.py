"""A TrainJob that fails is tried again where that helps; jobs that ended are removed."""

import json
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from kubeflow.trainer import CustomTrainerContainer
from trainjob_jobs import ENDLESS, REPORTING, WAITING, Interrupted, Jobs, meanwhile, wait_until

from forecast_assets.trainjob import LocalPlatform, PipesTrainJobClient, Remedy, Retention, errors
from forecast_assets.trainjob.observation import Submission

pytest_plugins = ["trainjob_fixtures"]

FAILING_FIRST = """
def fail(kind):
    with open_dagster_pipes() as pipes:
        pipes.report_custom_message({"type": "error", "kind": kind, "message": f"{kind} with {SPEC}"})
    sys.exit(1)
"""


def observed(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """Metadata of the observations of ``a_model``, oldest first."""
    records = instance.fetch_observations(dg.AssetKey("a_model"), limit=100, ascending=True).records
    return [
        {name: value.value for name, value in record.asset_observation.metadata.items()}
        for record in records
        if record.asset_observation
    ]


def test_each_attempt_changes_what_the_policy_says_and_shows_it(jobs: Jobs, instance: dg.DagsterInstance) -> None:
    script = """
if SPEC["batch_size"] > 8:
    fail("cuda_out_of_memory")
if SPEC["backend"] == "nccl":
    fail("collective_timeout")
"""
    policy = {
        "cuda_out_of_memory": Remedy("half the batch", multiply={"batch_size": 0.5}),
        "collective_timeout": Remedy("gloo", replace={"backend": "gloo"}),
    }
    asset = jobs.asset_of(
        FAILING_FIRST + script + REPORTING, spec={"batch_size": 16, "backend": "nccl"}, recovery=policy
    )

    result = dg.materialize([asset], instance=instance)

    assert result.success
    first, second, third = jobs.names()
    assert [each.get("trainjob/reason") for each in observed(instance)] == [
        None,
        "cuda_out_of_memory: cuda_out_of_memory with {'batch_size': 16, 'backend': 'nccl'}",
        "collective_timeout: collective_timeout with {'batch_size': 8, 'backend': 'nccl'}",
    ]
    assert [each["trainjob"] for each in observed(instance)] == [first, second, third]
    (event,) = result.asset_materializations_for_node("a_model")
    table = str(event.metadata["trainjob/attempts"].value)
    assert [line.split(" | ")[1] for line in table.splitlines()[2:]] == [first, second, third]


def test_after_three_attempts_the_last_failure_is_final_and_the_next_call_starts_afresh(jobs: Jobs) -> None:
    policy = {"diverged": Remedy("a lower rate", multiply={"learning_rate": 0.5})}
    script = FAILING_FIRST + 'if not (HERE / "mended").exists(): fail("diverged")\n' + REPORTING
    spec = {"learning_rate": 1.0}

    with pytest.raises(errors.DivergedError, match=r"a-model-\w+-3: diverged with {'learning_rate': 0.25}"):
        jobs.materialize(script, spec=spec, recovery=policy, identity="one bundle")
    assert len(jobs.names()) == 3
    (jobs.folder / "mended").touch()
    jobs.materialize(script, spec=spec, recovery=policy, identity="one bundle")

    *_, fourth = jobs.names()
    assert len(jobs.names()) == 4
    (record,) = (jobs.folder / "records").glob(f"{fourth}.*")
    assert json.loads((record / "spec.json").read_text()) == spec


def test_a_call_made_again_goes_on_with_the_attempt_it_had_come_to(jobs: Jobs) -> None:
    script = FAILING_FIRST + 'if SPEC["batch_size"] > 8: fail("cuda_out_of_memory")\n' + WAITING + REPORTING
    policy = {"cuda_out_of_memory": Remedy("half the batch", multiply={"batch_size": 0.5})}

    def asset() -> dg.AssetsDefinition:
        return jobs.asset_of(script, spec={"batch_size": 16}, recovery=policy, identity="one bundle")

    def interrupt() -> None:
        wait_until(lambda: (jobs.folder / "started-0").exists())
        os.kill(os.getpid(), signal.SIGINT)

    meanwhile(interrupt)
    with pytest.raises(Interrupted):
        dg.materialize([asset()])
    (jobs.folder / "go").touch()
    result = dg.materialize([asset()])

    (event,) = result.asset_materializations_for_node("a_model")
    assert len(jobs.names()) == 2
    assert "half the batch" in str(event.metadata["trainjob/attempts"].value)


def test_a_users_mistake_is_not_tried_again(jobs: Jobs) -> None:
    with pytest.raises(errors.UserError):
        jobs.materialize(FAILING_FIRST + 'fail("user_error")', recovery={"diverged": Remedy("a lower rate")})

    assert len(jobs.names()) == 1


def test_a_rank_killed_by_sigkill_is_named_and_the_job_tried_again(jobs: Jobs) -> None:
    path = jobs.script("")
    path.write_text(
        "import os, pathlib, signal, sys, time\n"
        "from dagster_pipes import open_dagster_pipes\n"
        "mark = pathlib.Path(sys.argv[1])\n"
        "if os.environ['RANK'] == '1' and not mark.exists():\n"
        "    mark.touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "if os.environ['RANK'] == '0':\n"
        "    with open_dagster_pipes() as pipes:\n"
        "        pipes.report_asset_materialization(data_version='v1')\n"
        "else:\n"
        "    time.sleep(600 if not mark.exists() else 0)\n"
    )
    asset = jobs.asset(
        CustomTrainerContainer(image="unused"),
        command=["torchrun"],
        args=[str(path), str(jobs.folder / "mark")],
        recovery={"killed": Remedy("the same again")},
    )

    result = dg.materialize([asset])

    (event,) = result.asset_materializations_for_node("a_model")
    assert "killed: rank 1 was ended by SIGKILL" in str(event.metadata["trainjob/attempts"].value)


@pytest.mark.parametrize("victims", ["supervisor", "everything"])
def test_a_job_killed_by_sigkill_is_lost_and_tried_again(jobs: Jobs, victims: str) -> None:
    def kill() -> None:
        wait_until(lambda: len(list(jobs.folder.glob("started-*"))) == 2)
        for process in jobs.processes():
            if victims == "everything" or "local_supervisor" in " ".join(process.cmdline()):
                process.kill()
        (jobs.folder / "go").touch()

    script = 'if (HERE / "go").exists(): time.sleep(0)\nelse: (HERE / f"started-{NODE}").touch(); time.sleep(600)\n'
    meanwhile(kill)
    result = jobs.materialize(script + REPORTING, num_nodes=2, recovery={"node_lost": Remedy("the same again")})

    (event,) = result.asset_materializations_for_node("a_model")
    assert "node_lost: the process that kept the job is gone" in str(event.metadata["trainjob/attempts"].value)


def test_a_job_deleted_by_someone_else_is_reported_as_gone(jobs: Jobs) -> None:
    def delete() -> None:
        wait_until(lambda: (jobs.folder / "started-0").exists())
        jobs.platform.delete(jobs.names()[0])

    meanwhile(delete)
    with pytest.raises(errors.JobGoneError, match="deleted"):
        jobs.materialize(ENDLESS, recovery={"killed": Remedy("the same again")})


def test_of_two_processes_that_start_a_job_at_once_one_adopts_the_others(tmp_path: Path) -> None:
    class SlowerByAMoment(LocalPlatform):
        def submit(self, submission: Submission) -> None:
            if not self.list_jobs({}):
                super().submit(submission)
            super().submit(submission)

    jobs = Jobs(tmp_path)
    jobs.client = PipesTrainJobClient(SlowerByAMoment(tmp_path / "jobs"), tmp_path / "records")

    assert jobs.materialize(REPORTING).success
    assert len(jobs.names()) == 1


def test_a_job_started_anew_is_not_removed_by_one_who_saw_only_its_forerunner(jobs: Jobs) -> None:
    jobs.materialize(REPORTING, identity="one bundle")
    (seen,) = jobs.platform.list_jobs({})
    jobs.platform.delete(seen.name)
    jobs.materialize(REPORTING, identity="one bundle")

    jobs.platform.delete(seen.name, seen.uid)
    assert jobs.names() == [seen.name]
    jobs.platform.delete(seen.name, jobs.platform.observe(seen.name).uid)
    assert jobs.names() == []


def test_ended_jobs_are_kept_for_a_while_and_then_removed_with_their_records(jobs: Jobs) -> None:
    jobs.materialize(REPORTING)
    jobs.client = PipesTrainJobClient(
        jobs.platform, jobs.folder / "records", retention=Retention(keep=timedelta(days=1))
    )
    jobs.materialize(REPORTING)
    assert len(jobs.names()) == 2

    time.sleep(0.01)
    removed = Retention(keep=timedelta(0)).clean_up(jobs.platform, jobs.folder / "records")

    assert removed == 2
    assert jobs.names() == []
    assert list((jobs.folder / "records").iterdir()) == []
