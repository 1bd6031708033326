"""A TrainJob survives its step, and is ended with its run."""

import os
import signal
import subprocess
import sys
import textwrap

import dagster as dg
import psutil
import pytest
from trainjob_jobs import ENDLESS, REPORTING, WAITING, Interrupted, Jobs, meanwhile, wait_until

from feature_repo.paths import PROJECT_ROOT
from forecast_assets.trainjob import LocalPlatform, PipesTrainJobClient
from forecast_assets.trainjob.observation import Submission

pytest_plugins = ["trainjob_fixtures"]


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
