"""One of two processes in trouble: the other neither waits for ever nor goes on alone."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from trainer_frames import made_up_table, publish_frame

from trainer.bundle import read_sidecar
from trainer.spec import TrainSpec

DISTURBED = str(Path(__file__).with_name("disturbed_trainer.py"))


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_frame(made_up_table(weeks=90), tmp_path_factory.mktemp("ranks") / "frame")


@pytest.fixture
def spec(frame: Path, tmp_path: Path) -> TrainSpec:
    return TrainSpec(
        frame_path=str(frame),
        model_output_dir=str(tmp_path / "bundle"),
        hidden_dims=(8,),
        members=2,
        num_epochs=2,
        dropout=0.0,
        checkpoint_every=4,
    )


def saved(spec: TrainSpec, folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    spec.save(folder / "spec.json")
    return str(folder / "spec.json")


def torchrun(spec_path: str, *disturbances: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", DISTURBED, "--spec", spec_path]
    command += [f"--disturb={each}" for each in disturbances]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_one_process_whose_device_is_full_makes_all_compute_smaller_parts_and_learn_the_same(
    spec: TrainSpec, tmp_path: Path
) -> None:
    calm = replace(spec, model_output_dir=str(tmp_path / "calm"))
    undisturbed = torchrun(saved(calm, tmp_path / "a"))
    tight = torchrun(saved(spec, tmp_path / "b"), "1:10:OOM:self")
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert tight.returncode == 0, tight.stderr
    assert "resumed epoch=1 step=8" in tight.stdout
    assert "too little memory; a batch is computed in twice as many parts when all" in tight.stderr
    histories = (read_sidecar(each.model_output_dir)["history"] for each in (calm, spec))
    for one, other in zip(*histories, strict=True):
        assert other == pytest.approx(one, rel=1e-4)


@contextmanager
def two_processes(spec_path: str, disturbance: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two ranks without torchrun, which ends all as soon as one has failed; killed when the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, DISTURBED, "--spec", spec_path, f"--disturb={disturbance}"]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.send_signal(signal.SIGKILL)
            rank.communicate()


def test_a_process_that_hangs_is_given_up_after_the_time_out_and_the_training_goes_on_when_started_again(
    spec: TrainSpec, tmp_path: Path
) -> None:
    spec_path = saved(replace(spec, timeout_sec=5), tmp_path / "spec")
    with two_processes(spec_path, "1:10:SIGSTOP:self") as ranks:
        _, told = ranks[0].communicate(timeout=120)
        assert ranks[0].returncode == 1
    assert "rank 0 lost the other processes" in told
    assert "did not answer within timeout_sec 5. Start again to go on from the last checkpoint" in told
    again = torchrun(spec_path)
    assert again.returncode == 0, again.stderr
    assert "resumed epoch=1 step=8" in again.stdout


def test_a_roll_back_that_the_first_process_cannot_write_down_ends_all_at_once(spec: TrainSpec, tmp_path: Path) -> None:
    with two_processes(saved(spec, tmp_path / "spec"), "0:10:NAN:self") as ranks:
        told = [rank.communicate(timeout=120)[1] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [1, 1]
    assert "adjustments-" in told[0]
    assert "cannot be written: File too large" in told[0]
