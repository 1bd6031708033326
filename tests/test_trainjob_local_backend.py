"""Jobs on this machine look to users of the Kubeflow SDK as jobs on a cluster do."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
from kubeflow.trainer import CustomTrainer, CustomTrainerContainer, TrainerClient
from kubeflow.trainer.options import ActiveDeadlineSeconds, Annotations, Labels, Name, TrainerArgs, TrainerCommand
from trainjob_jobs import Jobs, wait_until

from feature_repo.paths import PROJECT_ROOT
from forecast_assets.trainjob.local_jobs import JobExistsError, LocalJobs

pytest_plugins = ["trainjob_fixtures"]

ENDED = {"Complete", "Failed"}
SLOW = """
import os, subprocess, sys, time
print("one", flush=True)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("two", os.environ["PET_NODE_RANK"], os.environ["PET_NNODES"], os.environ["PET_NPROC_PER_NODE"], flush=True)
time.sleep(600)
"""


@pytest.fixture
def client(jobs: Jobs) -> TrainerClient:
    """The SDK's client."""
    return jobs.platform.trainer_client


def start(client: TrainerClient, name: str, code: str, *options: object, num_nodes: int = 1, cpu: int = 1) -> str:
    trainer = CustomTrainerContainer(image="unused", num_nodes=num_nodes, resources_per_node={"cpu": cpu})
    command = [TrainerCommand(["python"]), TrainerArgs(["-c", code])]
    return client.train(trainer=trainer, options=[Name(name), *command, *options])


def test_the_runtime_is_the_default_one_of_a_cluster(client: TrainerClient) -> None:
    (runtime,) = client.list_runtimes()

    assert runtime.name == "torch-distributed"
    assert runtime == client.get_runtime("torch-distributed")


def test_a_jobs_status_steps_logs_and_events_are_those_of_a_cluster(client: TrainerClient) -> None:
    name = start(client, "well", "import os; print('node', os.environ['PET_NODE_RANK'])", num_nodes=2)
    job = client.wait_for_job_status(name, status=ENDED, timeout=60, polling_interval=1)

    assert job.status == "Complete"
    assert [(step.name, step.status, step.pod_name) for step in job.steps] == [
        ("node-0", "Succeeded", "well-node-0"),
        ("node-1", "Succeeded", "well-node-1"),
    ]
    assert [list(client.get_job_logs(name, step=f"node-{n}")) for n in (0, 1)] == [["node 0"], ["node 1"]]
    assert [event.reason for event in client.get_job_events(name)] == ["Started", "Completed", "Completed"]
    assert [job.name for job in client.list_jobs()] == ["well"]


def test_a_failed_job_is_failed(client: TrainerClient) -> None:
    name = start(client, "ill", "raise SystemExit(3)")

    with pytest.raises(RuntimeError, match="ill is Failed"):
        client.wait_for_job_status(name, timeout=60, polling_interval=1)
    assert client.get_job(name).steps[0].status == "Failed"


def test_deleting_a_running_job_ends_its_whole_process_tree(jobs: Jobs, client: TrainerClient) -> None:
    name = start(client, "slow", SLOW, num_nodes=2, cpu=3)
    lines = client.get_job_logs(name, follow=True)
    assert [next(lines), next(lines)] == ["one", "two 0 2 3"]
    assert client.get_job(name).status == "Running"
    wait_until(lambda: len(jobs.processes()) == 5)

    client.delete_job(name)

    assert jobs.processes() == []
    assert client.list_jobs() == []
    with pytest.raises(RuntimeError, match="Failed to get TrainJob: slow"):
        client.get_job(name)


def test_another_process_lists_reads_and_deletes_the_job(jobs: Jobs, client: TrainerClient) -> None:
    start(client, "shared", SLOW, Labels({"team": "demand"}), Annotations({"note": "mine"}))
    code = f"""
from pathlib import Path
from forecast_assets.trainjob import LocalPlatform
platform = LocalPlatform(Path({str(jobs.folder / "jobs")!r}))
(job,) = platform.list_jobs({{"team": "demand"}})
while len(platform.read_log(job.name, 0).lines) < 2:
    pass
print(job.name, job.phase, job.annotations["note"], *platform.read_log(job.name, 0).lines)
platform.delete(job.name)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout == "shared running mine one two 0 1 1\n"
    assert jobs.names() == []


def test_a_name_is_given_once(client: TrainerClient) -> None:
    start(client, "twin", "pass")

    with pytest.raises(JobExistsError):
        start(client, "twin", "pass")


def test_a_job_without_a_name_gets_one(client: TrainerClient) -> None:
    trainer = CustomTrainerContainer(image="unused")

    name = client.train(trainer=trainer, options=[TrainerCommand(["true"])])

    assert client.wait_for_job_status(name, timeout=60, polling_interval=1).status == "Complete"


def test_a_job_that_takes_longer_than_it_may_is_ended(jobs: Jobs, client: TrainerClient) -> None:
    name = start(client, "late", SLOW, ActiveDeadlineSeconds(1))

    job = client.wait_for_job_status(name, status=ENDED, timeout=60, polling_interval=1)

    assert job.status == "Failed"
    assert jobs.platform.observe(name).reason == "DeadlineExceeded"
    assert jobs.processes() == []


def test_a_command_that_does_not_exist_fails_the_job(jobs: Jobs, client: TrainerClient) -> None:
    name = client.train(
        trainer=CustomTrainerContainer(image="unused"), options=[Name("typo"), TrainerCommand(["no-such-program"])]
    )

    wait_until(lambda: jobs.platform.observe(name).ended)
    assert jobs.platform.observe(name).reason == "CannotStart"
    assert "no-such-program" in jobs.platform.observe(name).message


def test_the_environment_of_a_job_is_in_none_of_its_files(jobs: Jobs, client: TrainerClient) -> None:
    trainer = CustomTrainerContainer(image="unused", env={"POSTGRES_PASSWORD": "s3cret-word"})
    code = "import os; assert os.environ['POSTGRES_PASSWORD']"

    name = client.train(trainer=trainer, options=[TrainerCommand(["python"]), TrainerArgs(["-c", code])])

    assert client.wait_for_job_status(name, timeout=60, polling_interval=1).status == "Complete"
    for file in (jobs.folder / "jobs" / name).iterdir():
        assert "s3cret-word" not in file.read_text()


def test_the_reader_of_a_log_goes_on_where_another_one_was(tmp_path: Path) -> None:
    folder = tmp_path / "a-job"
    folder.mkdir()
    log = folder / "node-0.log"
    log.write_bytes(b"one\ntwo\nthr")
    jobs = LocalJobs(tmp_path)
    (folder / "lock").touch()
    with (folder / "lock").open() as running:
        fcntl.flock(running, fcntl.LOCK_EX)
        first = jobs.read_log("a-job", 0)
        log.write_bytes(log.read_bytes() + b"ee\nfour")
        second = jobs.read_log("a-job", 0, first.position)
    third = jobs.read_log("a-job", 0, second.position)

    assert [first.lines, second.lines, third.lines] == [["one", "two"], ["three"], ["four"]]
    assert jobs.read_log("a-job", 0, third.position).lines == []


def test_names_cannot_lead_out_of_the_folder(client: TrainerClient) -> None:
    for name in ("../elsewhere", "a/b", "", "Upper", "x" * 64):
        with pytest.raises(ValueError, match="cannot be a job's name"):
            client.get_job(name)


def train() -> None:
    """A function for the next test."""


def test_a_function_is_written_with_its_call(jobs: Jobs, client: TrainerClient) -> None:
    name = client.train(trainer=CustomTrainer(func=train))

    text = (jobs.folder / "jobs" / name / "train.py").read_text()
    client.delete_job(name)
    assert text.startswith("def train() -> None:")
    assert text.rstrip().endswith("train()")
