"""The TrainJob client tells Dagster the truth about jobs that do well, fail, keep silent, lie or never end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from kubeflow.trainer import BuiltinTrainer, CustomTrainer, CustomTrainerContainer, TorchTuneConfig
from kubeflow.trainer.options import RuntimePatch
from trainjob_jobs import ENDLESS, REPORTING, Jobs, wait_until

from forecast_assets.trainjob import PipesTrainJobClient, errors
from forecast_assets.trainjob.trainers import red_hat_trainer


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    """Jobs in a folder of their own, none of whose processes outlives the test."""
    jobs = Jobs(tmp_path)
    yield jobs
    wait_until(lambda: not jobs.processes(), 5)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("a_model")
    return {name: value.value for name, value in event.metadata.items()}


def test_the_stored_materialization_is_what_the_job_reported(jobs: Jobs) -> None:
    received: list[Any] = []

    result = jobs.materialize(REPORTING, spec={"epochs": 3}, num_nodes=2, on_message=received.append)

    (event,) = result.asset_materializations_for_node("a_model")
    assert event.metadata["nodes"].value == 2
    assert [message["epoch"] for message in received] == [0, 1, 2]
    assert event.tags is not None
    assert event.tags["dagster/data_version"] == "v1"
    assert metadata(result)["trainjob/folder"] == str(jobs.folder / "jobs" / jobs.names()[0])


def test_what_the_nodes_print_is_streamed_while_the_job_runs(jobs: Jobs) -> None:
    lines: list[str] = []

    def echo(line: str) -> None:
        lines.append(line)
        if line == "[node-1] node 1 begins":
            (jobs.folder / "seen").touch()

    jobs.client = PipesTrainJobClient(jobs.platform, jobs.folder / "records", echo=echo)
    script = """
print(f"node {NODE} begins", flush=True)
while not (HERE / "seen").exists():
    time.sleep(0.02)
"""
    jobs.materialize(script + REPORTING, num_nodes=2)

    assert sorted(lines) == ["[node-0] node 0 begins", "[node-1] node 1 begins"]


def test_a_failing_node_ends_the_job_and_the_error_shows_what_it_wrote(jobs: Jobs) -> None:
    script = 'sys.exit("rank 1 has no more patience") if NODE == 1 else time.sleep(600)'

    with pytest.raises(errors.JobFailedError, match="rank 1 has no more patience") as failure:
        jobs.materialize(script, num_nodes=2)

    assert failure.value.details.exit_code == 1
    assert [event.reason for event in failure.value.details.events] == ["Started", "Error", "Error", "Terminated"]


def test_a_job_that_says_why_it_failed_is_quoted_and_classified(jobs: Jobs) -> None:
    script = """
        with open_dagster_pipes() as pipes:
            pipes.report_custom_message({"type": "error", "kind": "user_error", "message": "spec field epochs is -1"})
        sys.exit(2)
    """

    with pytest.raises(errors.UserError, match=r"TrainJob local/a-model-\w+-1: spec field epochs is -1\n"):
        jobs.materialize(script)


def test_a_job_that_ends_well_but_reports_nothing_has_failed(jobs: Jobs) -> None:
    with pytest.raises(errors.NoResultError, match="reported no result, so it counts as failed"):
        jobs.materialize("pass")


def test_a_job_that_reports_a_result_and_then_fails_has_failed(jobs: Jobs) -> None:
    with pytest.raises(errors.JobFailedError, match="ended with status 3"):
        jobs.materialize(REPORTING + "sys.exit(3)")


@pytest.mark.parametrize(
    "written",
    [
        b"no JSON at all\n",
        b'{"__dagster_pipes_version": "0.1", "method": "report_custom_message"}\n',
        b'{"__dagster_pipes_version": "0.1", "method": "report_asset_mater',
        b"\xff\xfe\x00binary\n",
    ],
)
def test_one_garbled_message_spoils_the_result(jobs: Jobs, written: bytes) -> None:
    script = f"""
        from dagster_pipes import PipesEnvVarParamsLoader
        path = PipesEnvVarParamsLoader().load_messages_params()["path"]
        open(path, "ab").write({written!r})
    """

    with pytest.raises(errors.GarbledMessagesError, match=r"messages cannot be read: messages\.jsonl|message refused"):
        jobs.materialize(REPORTING + script.replace("\n        ", "\n"))


def test_a_result_that_is_not_what_it_says_is_not_used(jobs: Jobs) -> None:
    def verify(result: dg.MaterializeResult[Any]) -> None:
        raise ValueError(f"the bundle's hash is v2, not {result.data_version.value if result.data_version else None}")

    with pytest.raises(errors.ResultMismatchError, match="the bundle's hash is v2, not v1"):
        jobs.materialize(REPORTING, verify=verify)


def test_a_result_for_another_asset_is_not_used(jobs: Jobs) -> None:
    script = """
from dagster_pipes import PipesEnvVarParamsLoader
with open(PipesEnvVarParamsLoader().load_messages_params()["path"], "a") as file:
    params = {"asset_key": "another", "metadata": {}, "data_version": "v1"}
    json.dump({"__dagster_pipes_version": "0.1", "method": "report_asset_materialization", "params": params}, file)
"""

    with pytest.raises(errors.ResultMismatchError, match="another"):
        jobs.materialize(script)


def test_an_endless_job_is_ended_at_its_deadline(jobs: Jobs) -> None:
    with pytest.raises(errors.DeadlineExceededError, match="longer than 1 s"):
        jobs.materialize(ENDLESS, num_nodes=2, deadline_seconds=1)


def test_long_binary_and_unfinished_lines_neither_stop_nor_flood_the_log(jobs: Jobs) -> None:
    lines: list[str] = []
    jobs.client = PipesTrainJobClient(jobs.platform, jobs.folder / "records", echo=lines.append)
    script = r"""
    out = sys.stdout.buffer
    out.write(b"x" * 10_000_000 + b"\n")
    out.write(bytes(range(256)) + b"\n")
    out.write(b"\r 10 %\r 20 %\r100 %\n")
    out.write(b"no newline")
    out.flush()
    """.replace("\n    ", "\n")

    assert jobs.materialize(script + REPORTING).success

    assert [len(line) < 2_100 for line in lines] == [True] * len(lines)
    assert lines[0].endswith("… (10,000,000 characters)")
    assert lines[-2:] == ["[node-0] 100 %", "[node-0] no newline"]


def test_a_callback_that_fails_leaves_no_job_behind(jobs: Jobs) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("cannot plot")

    script = REPORTING.replace("pipes.report_asset", "time.sleep(600); pipes.report_asset")
    with pytest.raises(RuntimeError, match="cannot plot"):
        jobs.materialize(script, spec={"epochs": 1}, on_message=fail)

    assert jobs.names() == []


def test_without_a_shared_folder_messages_come_through_the_log(jobs: Jobs) -> None:
    lines: list[str] = []
    jobs.client = PipesTrainJobClient(jobs.platform, None, echo=lines.append)
    path = jobs.folder / "job_script.py"
    path.write_text(
        "import sys\n"
        "from dagster_pipes import open_dagster_pipes\n"
        "sys.stdout.write('progress 10 %')\n"
        "sys.stdout.flush()\n"
        "with open_dagster_pipes() as pipes:\n"
        "    sys.stdout.write('something without a newline')\n"
        "    sys.stdout.flush()\n"
        "    seed = pipes.extras['spec']['seed']\n"
        "    pipes.report_asset_materialization(metadata={'seed': seed}, data_version='v1')\n"
    )
    trainer = CustomTrainerContainer(image="unused")

    result = dg.materialize([jobs.asset(trainer, command=["python"], args=[str(path)], spec={"seed": 7})])

    assert metadata(result)["seed"] == 7
    assert lines == ["[node-0] progress 10 %", "[node-0] something without a newline"]


def test_a_spec_as_a_file_needs_a_folder_that_is_shared(jobs: Jobs) -> None:
    jobs.client = PipesTrainJobClient(jobs.platform, None)

    with pytest.raises(errors.NotSubmittedError, match=r"'\{spec\}' needs the spec as a file"):
        jobs.materialize(REPORTING)


def test_a_function_on_two_nodes_of_two_processes_is_a_job_too(jobs: Jobs) -> None:
    trainer = CustomTrainer(func=train, func_args={"spec": "{spec}"}, packages_to_install=["dagster-pipes"])

    result = dg.materialize([jobs.asset(trainer, spec={"seed": 7}, num_nodes=2)])

    assert metadata(result)["world_size"] == 4
    assert metadata(result)["seed"] == 7


def train(spec: str) -> None:
    """Shipped as text: imports what it needs."""
    import json
    import os

    from dagster_pipes import open_dagster_pipes

    if os.environ["RANK"] == "0":
        with open_dagster_pipes() as pipes, open(spec) as file:
            seed = json.load(file)["seed"]
            pipes.report_asset_materialization(
                metadata={"world_size": int(os.environ["WORLD_SIZE"]), "seed": seed}, data_version="v1"
            )


@pytest.mark.parametrize(
    ("reason", "arguments"),
    [
        ("runs on a cluster", {"trainer": BuiltinTrainer(config=TorchTuneConfig())}),
        ("pip install no-such-package", {"trainer": CustomTrainer(train, packages_to_install=["no-such-package>=1"])}),
        ("reserves PET_", {"trainer": CustomTrainer(train, env={"PET_NNODES": "3"})}),
        ("no runtime 'other'", {"trainer": CustomTrainer(train), "runtime": "other"}),
        ("needs a cluster", {"trainer": CustomTrainer(train), "options": [RuntimePatch(training_runtime_spec=None)]}),
        ("has no env", {"trainer": BuiltinTrainer(config=TorchTuneConfig()), "env": {"SEED": "7"}}),
    ],
)
def test_what_this_machine_cannot_run_is_refused_with_the_reason(
    jobs: Jobs, reason: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(errors.NotSubmittedError, match=reason):
        dg.materialize([jobs.asset(**arguments)])

    assert jobs.names() == []


def test_red_hats_trainers_are_named_as_missing_where_the_public_sdk_is_installed() -> None:
    with pytest.raises(ValueError, match="TransformersTrainer is part of Red Hat's build of the Kubeflow SDK"):
        red_hat_trainer("TransformersTrainer", num_nodes=1)
