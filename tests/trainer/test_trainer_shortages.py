"""A training that runs out of memory or disk space makes do with less, or ends and says what it lacked."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from trainer_disturbances import (
    Events,
    at_steps,
    checkpoints,
    run_out_of_memory,
    scores,
    terminate,
    train,
)

from trainer.bundle import bundle_hash
from trainer.dataset import Inputs
from trainer.mlp import EnsembleMLP
from trainer.spec import TrainSpec

pytest_plugins = ["trainer_disturbance_fixtures"]
pytestmark = pytest.mark.usefixtures("no_pictures_and_no_fsync")


FULL_DEVICE = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)


@contextmanager
def full_disk() -> Iterator[Callable[[], None]]:
    """No file may grow beyond a few bytes, until the block ends or what it gives is called."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_device_without_memory_gets_smaller_parts_and_learns_the_same(
    spec: TrainSpec, events: Events, tmp_path: Path
) -> None:
    calm, tight = replace(spec, dropout=0.0), replace(spec, dropout=0.0, model_output_dir=str(tmp_path / "tight"))
    assert train(calm) == 0
    assert train(tight, at_steps(3, 10, do=run_out_of_memory)) == 0
    assert [event["kind"] for event in events.of("recovered")] == ["cuda_out_of_memory"] * 2
    for one, other in zip(scores(calm.model_output_dir), scores(tight.model_output_dir), strict=True):
        assert other == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize("error", FULL_DEVICE, ids=lambda error: type(error).__name__)
def test_validation_takes_smaller_parts_as_well_however_a_library_says_that_the_device_is_full(
    spec: TrainSpec, events: Events, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    passes: list[int] = []

    def small_device(model: EnsembleMLP, *inputs: Tensor) -> Tensor:
        if not model.training and len(passes) < 6:  # until the first validation is over
            passes.append(len(inputs[0]))
            if passes[-1] > 150:
                raise error
        return forward(model, *inputs)

    forward = EnsembleMLP.forward
    monkeypatch.setattr(EnsembleMLP, "forward", small_device)
    assert train(replace(spec, num_epochs=1)) == 0
    assert [event["kind"] for event in events.of("recovered")] == ["cuda_out_of_memory"] * 2
    rows = sum(passes[2:6])
    assert passes[:4] == [rows, -(-rows // 2), -(-rows // 4), -(-rows // 4)]


def test_device_without_memory_for_the_model_ends_the_training(
    spec: TrainSpec, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.learner.build_model", lambda _config: run_out_of_memory(nn.Identity()))
    assert train(spec) == 1
    kind, message = events.error()
    assert kind == "cuda_out_of_memory"
    assert message.startswith("the device has too little memory for the model alone: use a smaller model or another")


@pytest.mark.parametrize(("loading", "what"), [("memory", "all rows"), ("stream", "the validation rows")])
def test_device_without_memory_for_the_rows_ends_the_training(
    spec: TrainSpec, events: Events, monkeypatch: pytest.MonkeyPatch, loading: str, what: str
) -> None:
    monkeypatch.setattr(Inputs, "of", lambda *_: run_out_of_memory(nn.Identity()))
    assert train(replace(spec, loading=loading)) == 1
    kind, message = events.error()
    assert kind == "cuda_out_of_memory"
    assert message.startswith(f"the device has too little memory for {what}: ")


def test_device_with_too_little_memory_for_one_row_ends_the_training(spec: TrainSpec, events: Events) -> None:
    assert train(spec, lambda _step, model: run_out_of_memory(model)) == 1
    assert events.error()[0] == "cuda_out_of_memory"


def test_checkpoint_that_cannot_be_written_is_tried_again(
    spec: TrainSpec, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_disk() as make_room:
        monkeypatch.setattr("trainer.checkpoint.time.sleep", lambda _seconds: make_room())
        assert train(spec) == 0
    assert bundle_hash(spec.model_output_dir) == bundle_hash(undisturbed)


def test_checkpoint_that_cannot_be_written_ends_the_training_with_path_and_free_space(
    spec: TrainSpec, undisturbed: Path, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.checkpoint.time.sleep", lambda _seconds: None)
    assert train(spec, at_steps(5, do=terminate)) == 75
    before = checkpoints(spec)
    with full_disk():
        assert train(spec) == 1
    kind, message = events.error()
    assert kind == "checkpoint_write"
    assert f"{spec.model_output_dir}.checkpoints/" in message
    assert "cannot be written: File too large; free there: " in message
    assert checkpoints(spec) == before
    assert not list(Path(spec.model_output_dir + ".checkpoints").glob(".*"))
    assert train(spec) == 0
    assert bundle_hash(spec.model_output_dir) == bundle_hash(undisturbed)
