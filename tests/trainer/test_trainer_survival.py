"""A training that is stopped or diverges goes on, and publishes what it would have anyway."""

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import nn
from trainer_disturbances import Events, at_steps, checkpoints, scores, terminate, train
from trainer_frames import made_up_table, publish_frame

from trainer import job
from trainer.bundle import bundle_hash
from trainer.checkpoint import CheckpointStore
from trainer.schedule import warm_cosine
from trainer.spec import TrainSpec
from trainer.version import code_version

pytest_plugins = ["trainer_disturbance_fixtures"]
pytestmark = pytest.mark.usefixtures("no_pictures_and_no_fsync")


def poison(model: nn.Module) -> None:
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))


def lose_the_machine() -> NoReturn:
    raise OSError("the machine is gone")


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


def test_checkpoint_of_another_loading_than_the_spec_now_asks_for_is_refused_by_its_folder(
    spec: TrainSpec, events: Events
) -> None:
    in_memory, streamed = replace(spec, loading="memory"), replace(spec, loading="stream")
    assert train(in_memory, at_steps(2, do=terminate)) == 75
    assert train(streamed) == 2
    kind, message = events.error()
    assert kind == "user_error"
    assert message.startswith(
        f'the checkpoints in {spec.model_output_dir}.checkpoints are of a training with loading "'
    )
    assert message.endswith('"stream": give back that loading, or remove the folder to begin anew')
    assert train(spec) == 0


def test_training_without_a_checkpoint_yet_is_loaded_as_the_spec_now_asks_for(
    spec: TrainSpec, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.loading.available_workers", lambda: 0)
    with pytest.raises(OSError, match="the machine is gone"):
        train(replace(spec, loading="memory"), lambda *_: lose_the_machine())
    assert train(replace(spec, loading="stream")) == 0
    assert [event["loading"] for event in events.of("started")] == ["memory", "stream"]


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
    assert message.endswith("look at the frame's extremes, or lower learning_rate further")


def test_what_overflows_in_float16_at_every_rate_ends_the_training_with_what_else_to_set(
    spec: TrainSpec, events: Events
) -> None:
    def grow(_step: int, model: nn.Module) -> None:
        with torch.no_grad():
            next(model.parameters()).fill_(1e5)  # more than float16 can hold

    assert train(replace(spec, use_amp=True, amp_dtype="float16"), grow) == 1
    kind, message = events.error()
    assert kind == "diverged"
    assert message.endswith('or lower learning_rate further, or set amp_dtype to "bfloat16" or use_amp to false')


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


def test_best_model_is_found_after_checkpoints_without_a_new_one(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path / "bundle"), frame_hash="f", spec_hash="s", code_hash="c")
    for number, epoch in enumerate((1, 1, 1, 1, 2, 2, 3)):
        store.save({"NUMBER": number}, {"EPOCH": epoch})
    again = CheckpointStore(str(tmp_path / "bundle"), frame_hash="f", spec_hash="s", code_hash="c")
    loaded = again.load()
    assert loaded is not None
    assert (loaded[0]["NUMBER"], loaded[1]) == (6, {"EPOCH": 3})
