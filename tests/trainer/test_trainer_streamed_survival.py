"""A streamed training that is stopped goes on, wherever it goes on, and publishes what it would have anyway."""

import errno
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from trainer_frames import made_up_table, publish_frame

from trainer import entry, job
from trainer.bundle import bundle_hash
from trainer.machine import available_workers
from trainer.spec import TrainSpec

BEREFT = str(Path(__file__).with_name("bereft_trainer.py"))


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "write_plots", lambda *_: None)


def terminate_loading_processes() -> None:
    children = multiprocessing.active_children()
    assert children
    for child in children:
        assert child.pid
        os.kill(child.pid, signal.SIGTERM)


class Terminator:
    """Sends SIGTERM to every process of a training, as torchrun does: to the loading processes as soon as they are
    there, before they have started up; and to all at a step that lasts until they have heard it.
    """

    def __init__(self, step: int) -> None:
        self._step, self.sent = step, 0
        self._early = threading.Thread(target=self._at_the_start)

    def __enter__(self) -> "Terminator":
        self._early.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._early.join()

    def _at_the_start(self) -> None:
        deadline = time.monotonic() + 30
        while not multiprocessing.active_children() and time.monotonic() < deadline:
            time.sleep(0.01)
        terminate_loading_processes()
        self.sent += 1

    def on_step(self, step: int, _model: nn.Module) -> None:
        if step == self._step:
            terminate_loading_processes()
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.3)
            self.sent += 1


@pytest.fixture
def spec(tmp_path: Path) -> TrainSpec:
    return TrainSpec(
        frame_path=str(publish_frame(made_up_table(weeks=60), tmp_path / "frame", chunk_rows=170)),
        model_output_dir=str(tmp_path / "bundle"),
        loading="stream",
        hidden_dims=(8,),
        members=2,
        num_epochs=2,
        dropout=0.1,
    )


def test_streamed_training_that_all_its_processes_are_told_to_end_goes_on_as_if_undisturbed_on_a_larger_machine(
    spec: TrainSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    calm = replace(spec, model_output_dir=str(tmp_path / "calm"))
    # One lane, whether a process of its own reads it or not.
    monkeypatch.setattr("trainer.loading.available_workers", lambda: 0)
    assert entry.train(lambda: calm) == 0
    monkeypatch.setattr("trainer.loading.available_workers", lambda: 1)
    with Terminator(step=3) as terminator:
        assert entry.train(lambda: spec, terminator.on_step) == 75
    assert terminator.sent == 2
    monkeypatch.setattr("trainer.loading.available_workers", lambda: 2)
    assert entry.train(lambda: spec) == 0
    assert bundle_hash(spec.model_output_dir) == bundle_hash(calm.model_output_dir)
    assert multiprocessing.active_children() == []


def test_streamed_training_on_its_own_that_loses_a_loading_process_ends_with_all_the_others(spec: TrainSpec) -> None:
    path = Path(spec.frame_path).with_name("spec.json")
    spec.save(path)
    with subprocess.Popen(
        [sys.executable, BEREFT, str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            # All of them hold standard error open, whose end this waits for.
            _, errors = process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, "is killed by signal: Killed" in errors) == (1, True), errors


def test_streamed_training_that_cannot_save_its_state_leaves_nothing_behind_though_no_garbage_is_collected(
    spec: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def fill_the_disk(_step: int, model: nn.Module) -> None:
        models.append(weakref.ref(model))
        monkeypatch.setattr("trainer.checkpoint.write_durably", refuse)

    models: list[weakref.ref[nn.Module]] = []
    monkeypatch.setattr("trainer.checkpoint.time.sleep", lambda _seconds: None)
    gc.disable()
    try:
        assert entry.train(lambda: replace(spec, checkpoint_every=1), fill_the_disk) == 1
        assert multiprocessing.active_children() == []
        assert [model() for model in models] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("quota", "processes", "expected"),
    [
        ("max 100000", 1, 8),
        ("max 100000", 4, 3),
        ("400000 100000", 1, 3),
        ("400000 100000", 2, 1),
        ("50000 100000", 1, 1),
        (None, 2, 7),
    ],
)
def test_loading_processes_are_as_many_as_training_leaves_cpus_of_the_containers_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, processes: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(16)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    if quota:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert available_workers(tmp_path) == expected
