"""A training that is stopped, runs out of something or diverges goes on, and publishes what it would have anyway."""

import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn
from trainer_frames import made_up_table, publish_frame

from trainer import entry, job
from trainer.bundle import bundle_hash, read_sidecar
from trainer.checkpoint import CheckpointStore
from trainer.dataset import Inputs
from trainer.mlp import EnsembleMLP
from trainer.report import Report
from trainer.schedule import warm_cosine
from trainer.spec import TrainSpec
from trainer.version import code_version

OnStep = Callable[[int, nn.Module], None]


class Events:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def receive(self, event: Any) -> None:
        self.all.append(dict(event))

    def of(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self.all if event["type"] == type_]

    def error(self) -> tuple[str, str]:
        (event,) = self.of("error")
        return event["kind"], event["message"]


@pytest.fixture(scope="module", autouse=True)
def _no_pictures_and_no_fsync() -> Iterator[None]:
    """Pictures take longer than the trainings of these tests; and nothing here is to survive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _descriptor: None)
        patch.setattr(job, "write_plots", lambda *_: None)
        yield


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    kept = Events()

    @contextmanager
    def opened(_rank: int) -> Iterator[Report]:
        yield Report([kept])

    monkeypatch.setattr(entry, "opened_report", opened)
    return kept


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_frame(made_up_table(weeks=90), tmp_path_factory.mktemp("survival") / "frame")


def small_spec(frame: Path, bundle: Path) -> TrainSpec:
    return TrainSpec(
        frame_path=str(frame),
        model_output_dir=str(bundle),
        hidden_dims=(8,),
        members=2,
        num_epochs=2,
        dropout=0.1,
        checkpoint_every=4,
    )


@pytest.fixture
def spec(frame: Path, tmp_path: Path) -> TrainSpec:
    return small_spec(frame, tmp_path / "bundle")


@pytest.fixture(scope="module")
def undisturbed(frame: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `spec`, without anything happening on the way."""
    bundle = tmp_path_factory.mktemp("undisturbed") / "bundle"
    assert train(small_spec(frame, bundle)) == 0
    return bundle


def train(spec: TrainSpec, on_step: OnStep = lambda _step, _model: None) -> int:
    return entry.train(lambda: spec, on_step)


def at_steps(*steps: int, do: Callable[[nn.Module], object]) -> OnStep:
    """Does something after each of some steps, the first time it is reached."""
    left = list(steps)

    def on_step(step: int, model: nn.Module) -> None:
        if step in left:
            left.remove(step)
            do(model)

    return on_step


def terminate(_model: nn.Module) -> None:
    signal.raise_signal(signal.SIGTERM)


def poison(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


def run_out_of_memory(_model: nn.Module) -> NoReturn:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def checkpoints(spec: TrainSpec) -> list[Path]:
    return sorted(Path(spec.model_output_dir + ".checkpoints").glob("*.pt"))


def scores(bundle: Path | str) -> list[dict[str, float]]:
    history: list[dict[str, float]] = read_sidecar(bundle)["history"]
    return history


@pytest.mark.parametrize("step", [1, 17, 22, 33])
def test_training_stopped_by_a_signal_asks_to_be_resumed_and_ends_as_if_it_had_not_been(
    spec: TrainSpec, undisturbed: Path, events: Events, step: int
) -> None:
    assert train(spec, at_steps(step, do=terminate)) == 75
    (interrupted,) = events.of("interrupted")
    assert interrupted["step"] == step
    assert not Path(spec.model_output_dir).exists()
    assert train(spec) == 0
    assert [event["step"] for event in events.of("resumed")] == [step]
    assert bundle_hash(spec.model_output_dir) == bundle_hash(undisturbed)
    assert checkpoints(spec) == []
    assert not events.of("error")


def test_last_three_checkpoints_are_kept_and_the_best_model_apart(spec: TrainSpec) -> None:
    assert train(spec, at_steps(40, do=terminate)) == 75
    kept = [file.name.split("-")[0] for file in checkpoints(spec)]
    assert (kept.count("state"), kept.count("best")) == (3, 1)
    for file in checkpoints(spec):
        torch.load(file, weights_only=True)


def test_corrupt_checkpoint_is_noticed_and_the_one_before_is_used(
    spec: TrainSpec, undisturbed: Path, events: Events
) -> None:
    assert train(spec, at_steps(40, do=terminate)) == 75
    states = [file for file in checkpoints(spec) if file.name.startswith("state")]
    content = bytearray(states[-1].read_bytes())
    content[len(content) // 2] ^= 1
    states[-1].write_bytes(content)
    assert train(spec) == 0
    assert [event["step"] for event in events.of("resumed")] == [36]
    assert bundle_hash(spec.model_output_dir) == bundle_hash(undisturbed)


def test_training_whose_checkpoints_are_all_corrupt_begins_anew_and_says_so(
    spec: TrainSpec, undisturbed: Path, events: Events, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(spec, at_steps(10, do=terminate)) == 75
    for file in checkpoints(spec):
        file.write_bytes(b"")
    assert train(spec) == 0
    assert not events.of("resumed")
    assert f"no checkpoint in {spec.model_output_dir}.checkpoints is good: the training begins anew" in caplog.text
    assert bundle_hash(spec.model_output_dir) == bundle_hash(undisturbed)


def test_checkpoint_of_another_version_of_the_code_is_refused(
    spec: TrainSpec, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(spec, at_steps(2, do=terminate)) == 75
    monkeypatch.setattr(job, "code_version", lambda: "another")
    assert train(spec) == 2
    kind, message = events.error()
    assert kind == "user_error"
    assert f"belong to the code {code_version()}, but this training's code is another: give back that code" in message


def test_checkpoint_of_another_spec_or_frame_is_refused_with_both_hashes(
    spec: TrainSpec, events: Events, tmp_path: Path
) -> None:
    assert train(spec, at_steps(2, do=terminate)) == 75
    other_spec = replace(spec, num_epochs=3)
    other_frame = replace(spec, frame_path=str(publish_frame(made_up_table(weeks=80), tmp_path / "other")))
    for other in (other_spec, other_frame):
        assert train(other) == 2
    told = [event["message"] for event in events.of("error")]
    assert f"belong to the spec {spec.identity()}" in told[0]
    assert f"this training's spec is {other_spec.identity()}" in told[0]
    assert "belong to the frame " in told[1]
    assert {event["kind"] for event in events.of("error")} == {"user_error"}


def test_what_a_recovery_changes_may_change_on_resume(spec: TrainSpec, events: Events) -> None:
    assert train(spec, at_steps(6, do=terminate)) == 75
    eased = replace(spec, batch_size=32, learning_rate=1e-3, accumulation_steps=2, gradient_checkpointing=True)
    assert train(eased) == 0
    assert len(events.of("resumed")) == 1


def test_loss_that_is_not_a_number_rolls_back_and_goes_on_at_half_the_rate(spec: TrainSpec, events: Events) -> None:
    assert train(spec, at_steps(10, do=poison)) == 0
    (recovered,) = events.of("recovered")
    assert recovered["kind"] == "diverged"
    assert "not finite by step" in recovered["message"]
    assert all(epoch["wmae"] > 0 for epoch in scores(spec.model_output_dir))
    for epoch in events.of("epoch"):
        last_step = warm_cosine(epoch["currentStep"] - 1, epoch["totalSteps"])
        assert epoch["learning_rate"] == pytest.approx(4e-3 * last_step * 0.5)
        assert epoch["learning_rate"] > 0


def test_exploding_loss_rolls_back(spec: TrainSpec, events: Events) -> None:
    def explode(model: nn.Module) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(30)

    assert train(spec, at_steps(10, do=explode)) == 0
    (recovered,) = events.of("recovered")
    assert recovered["message"].startswith("the loss rose from ")


def test_loss_that_diverges_again_and_again_ends_the_training(spec: TrainSpec, events: Events) -> None:
    assert train(spec, lambda step, model: poison(model) if step % 10 == 0 else None) == 1
    assert len(events.of("recovered")) == 3
    kind, message = events.error()
    assert kind == "diverged"
    assert "after 3 roll-backs, at 0.125 times the learning rate" in message


def test_training_given_up_has_all_its_roll_backs_again_at_another_learning_rate_and_starts_at_that(
    spec: TrainSpec, events: Events
) -> None:
    assert train(spec, lambda _step, model: poison(model)) == 1
    lower = replace(spec, learning_rate=1e-3)
    assert train(lower, at_steps(3, 7, 11, do=poison)) == 0
    assert len(events.of("recovered")) == 3 + 3
    first = events.of("epoch")[0]
    last_step = warm_cosine(first["currentStep"] - 1, first["totalSteps"])
    assert first["learning_rate"] == pytest.approx(1e-3 * last_step * 0.5**3)


def test_device_without_memory_gets_smaller_parts_and_learns_the_same(
    spec: TrainSpec, events: Events, tmp_path: Path
) -> None:
    calm, tight = replace(spec, dropout=0.0), replace(spec, dropout=0.0, model_output_dir=str(tmp_path / "tight"))
    assert train(calm) == 0
    assert train(tight, at_steps(3, 10, do=run_out_of_memory)) == 0
    assert [event["kind"] for event in events.of("recovered")] == ["cuda_out_of_memory"] * 2
    for one, other in zip(scores(calm.model_output_dir), scores(tight.model_output_dir), strict=True):
        assert other == pytest.approx(one, rel=1e-4)


FULL_DEVICE = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)


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


@contextmanager
def full_disk() -> Iterator[Callable[[], None]]:
    """No file may grow beyond a few bytes, until the block ends or what it gives is called."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


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


def test_best_model_is_found_after_checkpoints_without_a_new_one(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path / "bundle"), frame_hash="f", spec_hash="s", code_hash="c")
    for number, epoch in enumerate((1, 1, 1, 1, 2, 2, 3)):
        store.save({"NUMBER": number}, {"EPOCH": epoch})
    again = CheckpointStore(str(tmp_path / "bundle"), frame_hash="f", spec_hash="s", code_hash="c")
    loaded = again.load()
    assert loaded is not None
    assert (loaded[0]["NUMBER"], loaded[1]) == (6, {"EPOCH": 3})
