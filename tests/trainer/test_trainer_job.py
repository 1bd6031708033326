import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dagster_pipes import encode_param
from trainer_frames import made_up_table, publish_frame

from trainer.bundle import bundle_hash, read_sidecar
from trainer.sampling import global_batch_size
from trainer.spec import TrainSpec

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PROCESSES = {"one": [sys.executable, "-m", "trainer"], "two": [*TORCHRUN, "-m", "trainer"]}


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_frame(made_up_table(), tmp_path_factory.mktemp("job") / "frame")


def torch_environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def run_trainer(
    spec: TrainSpec, folder: Path, *, processes: str = "one", pipes: bool = False
) -> subprocess.CompletedProcess[str]:
    spec.save(folder / "spec.json")
    environment = torch_environment()
    if pipes:
        context = {"asset_keys": ["candidate"], "run_id": "r", "job_name": "j", "retry_number": 0, "extras": {}}
        (folder / "context.json").write_text(json.dumps(context))
        environment["DAGSTER_PIPES_CONTEXT"] = encode_param({"path": str(folder / "context.json")})
        environment["DAGSTER_PIPES_MESSAGES"] = encode_param({"path": str(folder / "messages.jsonl")})
    command = [*PROCESSES[processes], "--spec", str(folder / "spec.json")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def messages(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "messages.jsonl").read_text().splitlines()]


def small_spec(frame: Path, folder: Path) -> TrainSpec:
    return TrainSpec(
        frame_path=str(frame),
        model_output_dir=str(folder / "bundle"),
        hidden_dims=(32, 16),
        members=2,
        num_epochs=3,
        checkpoint_every=10,
    )


@pytest.fixture(scope="module")
def alone(frame: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the bundle of one process on its own, and what that wrote to standard output."""
    folder = tmp_path_factory.mktemp("alone")
    finished = run_trainer(small_spec(frame, folder), folder)
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stdout


@pytest.fixture(scope="module")
def under_dagster(frame: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle of two processes started by Dagster, and their messages to it."""
    folder = tmp_path_factory.mktemp("under_dagster")
    finished = run_trainer(small_spec(frame, folder), folder, processes="two", pipes=True)
    assert finished.returncode == 0, finished.stderr
    return folder


def test_two_processes_learn_what_one_learns(alone: tuple[Path, str], under_dagster: Path) -> None:
    histories = (read_sidecar(folder / "bundle")["history"] for folder in (alone[0], under_dagster))
    for one, two in zip(*histories, strict=True):
        assert two == pytest.approx(one, rel=1e-5)


def test_epochs_and_the_result_reach_dagster(under_dagster: Path) -> None:
    bundle, sent = under_dagster / "bundle", messages(under_dagster)
    started, *epochs = [m["params"]["payload"] for m in sent if m["method"] == "report_custom_message"]
    assert (started["type"], started["processes"], started["backend"]) == ("started", 2, "gloo")
    assert [(epoch["type"], epoch["epoch"], epoch["num_epochs"]) for epoch in epochs] == [
        ("epoch", number, 3) for number in (1, 2, 3)
    ]
    assert set(epochs[0]) == {
        *("type", "epoch", "num_epochs", "training_loss", "validation_loss", "wmae", "rmse", "mae", "wape", "mape"),
        *("learning_rate", "epoch_duration_sec", "rows_per_second", "gpu_utilization", "memory_allocated_gb"),
        *("progressPercentage", "estimatedRemainingSeconds", "currentStep", "totalSteps"),
    }
    (result,) = [m["params"] for m in sent if m["method"] == "report_asset_materialization"]
    assert result["data_version"] == bundle_hash(bundle)
    assert result["metadata"]["bundle_path"]["raw_value"] == str(bundle)
    assert result["metadata"]["eval/wmae"]["raw_value"] == read_sidecar(bundle)["scores"]["wmae"]


def test_epochs_and_the_result_are_logged_where_dagster_is_not(alone: tuple[Path, str]) -> None:
    events = [line.split(" [Rank 0] INFO ")[1].split("=")[0] for line in alone[1].splitlines()]
    assert events == ["started device", *["epoch epoch"] * 3, "result eval/wmae"]


def test_processes_killed_at_any_step_and_a_torchrun_asked_to_stop_end_in_the_bundle_of_an_undisturbed_run(
    frame: Path, under_dagster: Path, tmp_path: Path
) -> None:
    spec = small_spec(frame, tmp_path)
    spec.save(tmp_path / "spec.json")
    script = [str(Path(__file__).with_name("disturbed_trainer.py")), "--spec", str(tmp_path / "spec.json")]
    disturbances = ("1:25:SIGKILL:self", "0:57:SIGKILL:self", "1:83:SIGTERM:parent")
    command = [*TORCHRUN, "--max-restarts", "2", *script, *(f"--disturb={each}" for each in disturbances)]
    disturbed, ended = (
        subprocess.run(command, env=torch_environment(), capture_output=True, text=True, check=False, timeout=120)
        for _ in range(2)
    )
    steps = re.findall(r"INFO (resumed|interrupted) epoch=\d step=(\d+)", disturbed.stdout + ended.stdout)
    assert [event for event, _ in steps] == ["resumed", "resumed", "interrupted", "resumed"]
    assert [int(step) for _, step in steps[:2]] == [20, 50]
    assert steps[2][1] == steps[3][1]
    assert 83 <= int(steps[3][1]) < 100
    assert disturbed.returncode != 0
    assert ended.returncode == 0, ended.stderr
    assert bundle_hash(tmp_path / "bundle") == bundle_hash(under_dagster / "bundle")


@pytest.mark.parametrize("processes", ["one", "two"])
def test_mistake_of_the_caller_is_one_line_and_a_message_to_dagster(tmp_path: Path, processes: str) -> None:
    spec = small_spec(publish_frame(made_up_table(weeks=20), tmp_path / "frame"), tmp_path)
    finished = run_trainer(spec, tmp_path, processes=processes, pipes=True)
    expected = "the frame spans 20 weeks; val_size 18 and gap_weeks 4 with 8 weeks of training need 30"
    assert finished.stderr.count(expected) == 1
    assert {"type": "error", "kind": "user_error", "message": expected} in [
        (m["params"] or {}).get("payload") for m in messages(tmp_path)
    ]
    assert not (tmp_path / "bundle").exists()
    if processes == "one":
        assert (finished.returncode, finished.stderr) == (2, f"trainer: {expected}\n")


@pytest.mark.parametrize(
    ("rows", "processes", "expected"), [(400_000, 2, 2048), (4_000, 2, 64), (20_000, 1, 128), (10, 3, 66)]
)
def test_small_frames_take_smaller_batches_in_equal_shares(rows: int, processes: int, expected: int) -> None:
    assert global_batch_size(rows, 2048, processes) == expected
