"""A TrainJob survives its step, is ended with its run, and is tried again where that helps."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from kubeflow.trainer import CustomTrainerContainer
from trainjob_jobs import ENDLESS, REPORTING, Jobs, wait_until

from feature_repo.paths import PROJECT_ROOT
from forecast_assets.trainjob import LocalPlatform, PipesTrainJobClient, Remedy, Retention, errors
from forecast_assets.trainjob.observation import Submission

FAILING_FIRST = """
def fail(kind):
    with open_dagster_pipes() as pipes:
        pipes.report_custom_message({"type": "error", "kind": kind, "message": f"{kind} with {SPEC}"})
    sys.exit(1)
"""
WAITING = """
(HERE / f"started-{NODE}").touch()
while not (HERE / "go").exists():
    time.sleep(0.02)
"""
Interrupted = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Jobs in a folder of their own, none of whose processes outlives the test."""
    jobs = Jobs(tmp_path)
    yield jobs
    for name in jobs.names():
        jobs.platform.delete(name)
    wait_until(lambda: not jobs.processes(), 5)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that several runs share."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def meanwhile(do: Callable[[], object]) -> threading.Thread:
    """Do something while this thread is busy with a run."""
    thread = threading.Thread(target=do)
    thread.start()
    return thread


def observed(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    """Metadata of the observations of ``a_model``, oldest first."""
    records = instance.fetch_observations(dg.AssetKey("a_model"), limit=100, ascending=True).records
    return [
        {name: value.value for name, value in record.asset_observation.metadata.items()}
        for record in records
        if record.asset_observation
    ]


def test_a_step_killed_by_sigkill_leaves_its_job_to_the_next_attempt(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.script(WAITING + REPORTING)
    (jobs.folder / "steps.py").write_text(
        textwrap.dedent(f"""
        from pathlib import Path
        import dagster as dg
        from trainjob_jobs import Jobs
        from kubeflow.trainer import CustomTrainerContainer

        def job():
            jobs = Jobs(Path({str(jobs.folder)!r}))
            script = str(jobs.folder / "job_script.py")
            a_model = jobs.asset(
                CustomTrainerContainer(image="unused"), command=["python"], args=[script, "{{spec}}"],
                spec={{"epochs": 2}}, num_nodes=2,
            )
            train = dg.define_asset_job("train", [a_model], executor_def=dg.in_process_executor)
            return dg.Definitions([a_model], jobs=[train]).resolve_job_def("train")
        """)
    )
    (jobs.folder / "home").mkdir()
    path = os.pathsep.join([str(PROJECT_ROOT), str(PROJECT_ROOT / "tests"), str(jobs.folder)])
    environment = {**os.environ, "PYTHONPATH": path, "DAGSTER_HOME": str(jobs.folder / "home")}
    run = "import dagster as dg, steps; dg.execute_job(dg.reconstructable(steps.job), dg.DagsterInstance.get())"
    first = subprocess.Popen([sys.executable, "-W", "ignore", "-c", run], env=environment)
    wait_until(lambda: len(list(jobs.folder.glob("started-*"))) == 2)
    (name,) = jobs.names()
    node = psutil.Process(int(jobs.platform.observe(name).nodes[0].place.split()[1]))

    first.kill()
    first.wait()

    assert node.is_running()
    (jobs.folder / "go").touch()
    monkeypatch.syspath_prepend(str(jobs.folder))
    import steps  # type: ignore[import-not-found]

    with dg.DagsterInstance.from_config(str(jobs.folder / "home")) as instance:
        (killed,) = instance.get_runs()
        again = dg.execute_job(
            dg.reconstructable(steps.job),
            instance,
            reexecution_options=dg.ReexecutionOptions(parent_run_id=killed.run_id),
        )
        messages = [entry.user_message for entry in instance.all_logs(again.run_id)]

    assert again.success
    assert jobs.names() == [name]
    assert any("adopted, not started again" in message for message in messages)
    assert jobs.platform.observe(name).nodes[0].place == f"process {node.pid}"


def test_cancelling_the_run_ends_every_process_and_passes_the_interrupt_on(
    jobs: Jobs, instance: dg.DagsterInstance
) -> None:
    def cancel() -> None:
        wait_until(lambda: len(list(jobs.folder.glob("started-*"))) == 2)
        # What Dagster does for "Terminate": note it, then interrupt the process of the run.
        instance.report_run_canceling(instance.get_runs()[0])
        os.kill(os.getpid(), signal.SIGINT)

    meanwhile(cancel)
    with pytest.raises(Interrupted):
        dg.materialize([jobs.asset_of(ENDLESS, num_nodes=2)], instance=instance)

    assert jobs.processes() == []
    assert jobs.names() == []


def test_an_interrupt_without_a_cancellation_leaves_the_job_to_the_next_call(jobs: Jobs) -> None:
    def interrupt() -> None:
        wait_until(lambda: (jobs.folder / "started-0").exists())
        os.kill(os.getpid(), signal.SIGINT)

    def asset() -> dg.AssetsDefinition:
        return jobs.asset_of(WAITING + REPORTING, spec={"epochs": 1}, identity="one bundle")

    meanwhile(interrupt)
    with pytest.raises(Interrupted):
        dg.materialize([asset()])
    (name,) = jobs.names()
    assert jobs.platform.observe(name).phase == "running"
    (jobs.folder / "go").touch()

    assert dg.materialize([asset()]).success
    assert jobs.names() == [name]


@pytest.mark.parametrize("cancelled", [True, False], ids=["cancelled", "interrupted"])
def test_an_interrupt_between_submitting_and_following_leaves_a_job_only_to_the_next_call(
    jobs: Jobs, instance: dg.DagsterInstance, cancelled: bool
) -> None:
    class InterruptedAfterwards(LocalPlatform):
        def submit(self, submission: Submission) -> None:
            super().submit(submission)
            if cancelled:
                instance.report_run_canceling(instance.get_runs()[0])
            os.kill(os.getpid(), signal.SIGINT)

    jobs.client = PipesTrainJobClient(InterruptedAfterwards(jobs.folder / "jobs"), jobs.folder / "records")
    with pytest.raises(Interrupted):
        dg.materialize([jobs.asset_of(ENDLESS)], instance=instance)

    assert len(jobs.names()) == (0 if cancelled else 1)


def test_a_job_whose_start_cannot_be_reported_is_not_left_behind(jobs: Jobs) -> None:
    class Unfindable(LocalPlatform):
        def find(self, name: str) -> dict[str, str]:
            raise RuntimeError(f"nobody knows where {name} is")

    jobs.client = PipesTrainJobClient(Unfindable(jobs.folder / "jobs"), jobs.folder / "records")
    with pytest.raises(RuntimeError, match="nobody knows where a-model"):
        jobs.materialize(ENDLESS)

    assert jobs.names() == []


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
