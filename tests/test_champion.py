"""A candidate serves only if it is good enough; a refused one leaves everything as it was."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.compute as pc
import pytest

from feature_repo.paths import PROJECT_ROOT
from forecast_assets import promotion
from forecast_assets.assets import champion as champion_module
from forecast_assets.assets.champion import champion_model
from forecast_assets.ingest.drop import read_drop
from forecast_assets.model_store import KEPT_BUNDLES
from forecast_assets.resources import Artifacts
from forecast_assets.rollback import rollback
from trainer.bundle import read_sidecar, write_sidecar
from trainer.spec import TrainSpec

sys.path.insert(0, str(PROJECT_ROOT / "tests" / "trainer"))
from trainer_frames import made_up_table


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small_drop: Path) -> Artifacts:
    """An accepted drop, a published frame and one bundle trained on it, to be copied."""
    artifacts = Artifacts(path=str(tmp_path_factory.mktemp("trained")))
    artifacts.raw.save(read_drop(small_drop))
    artifacts.frames.publish(made_up_table(), feature_service="", feature_service_hash="")
    frame = artifacts.frames.current()
    assert frame is not None
    spec = TrainSpec(
        frame_path=str(frame[0]), model_output_dir=str(artifacts.models.bundle("first")), members=1, num_epochs=2
    )
    spec.save(artifacts.root / "spec.json")
    command = [sys.executable, "-m", "trainer", "--spec", str(artifacts.root / "spec.json")]
    subprocess.run(command, check=True, capture_output=True, cwd=PROJECT_ROOT)
    return artifacts


@pytest.fixture
def artifacts(trained: Artifacts, tmp_path: Path) -> Artifacts:
    """Its own copy, with the bundle as candidate and no champion yet."""
    shutil.copytree(trained.root, tmp_path / "copy")
    artifacts = Artifacts(path=str(tmp_path / "copy"))
    artifacts.models.set_candidate(artifacts.models.bundle("first"))
    return artifacts


def decide(artifacts: Artifacts) -> dg.ExecuteInProcessResult:
    return dg.materialize([champion_model], resources={"artifacts": artifacts}, raise_on_error=False)


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node("champion_model")
    return {name: value.value for name, value in event.metadata.items()}


def new_candidate(
    artifacts: Artifacts, change: Callable[[dict[str, Any]], None] = lambda _: None, name: str = "second"
) -> None:
    """A copy of the first bundle whose sidecar is changed."""
    bundle = artifacts.models.bundle(name)
    shutil.copytree(artifacts.models.bundle("first"), bundle)
    facts = read_sidecar(bundle)
    change(facts)
    write_sidecar(bundle, facts)
    artifacts.models.set_candidate(bundle)


def test_the_first_good_candidate_becomes_the_champion(artifacts: Artifacts) -> None:
    result = decide(artifacts)

    assert result.success
    assert artifacts.models.champion() == artifacts.models.bundle("first")
    assert metadata(result)["promoted"] is True


def spoil(facts: dict[str, Any]) -> None:
    """Let the model misread its inputs: its forecasts become useless."""
    for each in facts["encoder"]["inputs"]:
        each["mean"] += 3 * each["std"]


def test_the_decision_is_written_down_with_its_numbers(artifacts: Artifacts) -> None:
    decide(artifacts)
    decide(artifacts)  # nothing to decide: the candidate is the champion

    (decision,) = artifacts.models.decisions()
    assert (decision.outcome, decision.bundle, decision.champion_before) == ("promoted", "first", None)
    assert 0 < decision.numbers["candidate"]["wmae"] < min(decision.numbers["naive"].values())


def test_a_candidate_no_better_than_a_naive_forecast_cannot_be_the_first_champion(artifacts: Artifacts) -> None:
    new_candidate(artifacts, spoil)

    result = decide(artifacts)

    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "does not beat the best naive forecast" in str(failure.step_failure_data.user_failure_data)
    assert artifacts.models.champion() is None


def test_a_worse_candidate_is_refused_and_the_champion_stays(artifacts: Artifacts) -> None:
    best = metadata(decide(artifacts))["eval/wmae"]
    new_candidate(artifacts, spoil)

    result = decide(artifacts)

    assert result.success
    assert artifacts.models.champion() == artifacts.models.bundle("first")
    told = metadata(result)
    assert told["promoted"] is False
    assert "worse than the champion's" in told["rules"]
    assert told["eval/wmae"] == pytest.approx(best)
    refusal = artifacts.models.decisions()[-1]
    assert (refusal.outcome, refusal.bundle, refusal.champion_before) == ("refused", "second", "first")
    assert "worse than the champion's" in refusal.reasons[-1]


def test_a_candidate_whose_weights_are_corrupt_is_not_promoted(artifacts: Artifacts) -> None:
    decide(artifacts)
    new_candidate(artifacts)
    with (artifacts.models.bundle("second") / "best_model.pt").open("r+b") as file:
        file.seek(200)
        file.write(b"\x00\xff")

    assert not decide(artifacts).success
    assert artifacts.models.champion() == artifacts.models.bundle("first")


def test_a_champion_that_cannot_forecast_the_present_frame_has_no_say(artifacts: Artifacts) -> None:
    decide(artifacts)
    new_candidate(artifacts)
    (artifacts.models.bundle("first") / "best_model.pt").unlink()

    assert decide(artifacts).success
    assert artifacts.models.champion() == artifacts.models.bundle("second")


def roll_back(artifacts: Artifacts, bundle: str = "") -> dg.ExecuteInProcessResult:
    return rollback.execute_in_process(
        run_config={"ops": {"roll_back": {"config": {"bundle": bundle}}}},
        resources={"artifacts": artifacts},
        raise_on_error=False,
    )


def test_a_rollback_lets_the_model_before_serve_and_the_taken_back_one_is_not_promoted_again(
    artifacts: Artifacts,
) -> None:
    decide(artifacts)
    new_candidate(artifacts)
    decide(artifacts)
    assert artifacts.models.champion() == artifacts.models.bundle("second")

    assert roll_back(artifacts).success
    assert artifacts.models.champion() == artifacts.models.bundle("first")

    result = decide(artifacts)
    assert "rolled back by hand" in metadata(result)["rules"]
    assert artifacts.models.champion() == artifacts.models.bundle("first")
    assert [each.outcome for each in artifacts.models.decisions()] == ["promoted", "promoted", "rolled back", "refused"]


@pytest.mark.parametrize(
    ("bundle", "message"),
    [
        ("", "no earlier champion is known. Set bundle to one of: first"),
        ("third", "there is no bundle 'third'. Set bundle to one of: first"),
        ("first", "first is the champion already"),
    ],
)
def test_a_rollback_to_nowhere_changes_nothing_and_says_where_it_could_go(
    artifacts: Artifacts, bundle: str, message: str
) -> None:
    decide(artifacts)

    result = roll_back(artifacts, bundle)

    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert message in str(failure.step_failure_data.user_failure_data)
    assert artifacts.models.champion() == artifacts.models.bundle("first")


def test_rollbacks_lead_back_from_promotion_to_promotion_and_never_to_what_was_taken_back(artifacts: Artifacts) -> None:
    decide(artifacts)
    for name in ("second", "third"):
        new_candidate(artifacts, name=name)
        decide(artifacts)

    served = [roll_back(artifacts).success and artifacts.models.champion() for _ in range(3)]

    assert served == [artifacts.models.bundle("second"), artifacts.models.bundle("first"), False]


def test_the_champion_that_a_promotion_replaces_can_be_rolled_back_to_however_old_it_is(artifacts: Artifacts) -> None:
    decide(artifacts)
    for number in range(KEPT_BUNDLES + 2):  # all refused
        shutil.copytree(artifacts.models.bundle("first"), artifacts.models.bundle(f"other-{number}"))
        os.utime(artifacts.models.bundle(f"other-{number}"), (2e9 + number, 2e9 + number))
    new_candidate(artifacts)
    os.utime(artifacts.models.bundle("second"), (3e9, 3e9))
    decide(artifacts)

    assert len(artifacts.models.kept()) == KEPT_BUNDLES + 1
    assert roll_back(artifacts).success
    assert artifacts.models.champion() == artifacts.models.bundle("first")


@pytest.mark.parametrize("candidate", ["second", "third"], ids=["the champion is judged", "another is judged"])
def test_a_rollback_while_a_candidate_is_being_judged_is_not_overwritten(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, candidate: str
) -> None:
    decide(artifacts)
    new_candidate(artifacts)
    decide(artifacts)
    if candidate == "third":
        new_candidate(artifacts, name="third")
    judged_against = list[Path | None]()

    def decide_during_a_rollback(*arguments: Any, **named: Any) -> Any:
        judged_against.append(artifacts.models.champion())
        if len(judged_against) == 1:
            assert roll_back(artifacts).success
        return promotion.decide(*arguments, **named)

    monkeypatch.setattr(champion_module, "decide", decide_during_a_rollback)
    result = decide(artifacts)

    assert result.success
    assert judged_against == [artifacts.models.bundle("second"), artifacts.models.bundle("first")]
    rolled_back, last = artifacts.models.decisions()[-2:]
    assert (rolled_back.outcome, rolled_back.bundle) == ("rolled back", "first")
    assert (last.bundle, last.champion_before) == (candidate, "first")
    # What was taken back stays so; another has only to be as good as the model that serves again.
    assert last.outcome == ("refused" if candidate == "second" else "promoted")
    assert artifacts.models.champion() == artifacts.models.bundle("first" if candidate == "second" else "third")


def test_a_candidate_of_another_frame_waits_for_the_one_of_the_present_frame(artifacts: Artifacts) -> None:
    decide(artifacts)
    new_candidate(artifacts)
    whole = made_up_table()
    shorter = whole.filter(pc.less(whole["event_timestamp"], pc.max(whole["event_timestamp"])))
    artifacts.frames.publish(shorter, feature_service="", feature_service_hash="")

    result = decide(artifacts)

    assert result.success
    assert metadata(result)["promoted"] is False
    assert artifacts.models.champion() == artifacts.models.bundle("first")
    (reason,) = artifacts.models.decisions()[-1].reasons
    assert "not on the present one" in reason
    assert reason.endswith("a candidate of the present frame comes by itself, or materialize candidate_model")

    present = artifacts.frames.current()
    assert present is not None
    new_candidate(artifacts, lambda facts: facts.update(frame={"content_hash": present[1].content_hash}), "third")
    decide(artifacts)
    assert artifacts.models.champion() == artifacts.models.bundle("third")


def test_the_champion_judged_again_on_a_newer_frame_serves_on_and_nothing_is_decided(artifacts: Artifacts) -> None:
    decide(artifacts)
    decisions = artifacts.models.decisions()
    artifacts.frames.publish(made_up_table(seed=1), feature_service="", feature_service_hash="")

    assert decide(artifacts).success
    assert artifacts.models.decisions() == decisions
    assert artifacts.models.champion() == artifacts.models.bundle("first")


def test_a_first_candidate_of_another_frame_cannot_serve(artifacts: Artifacts) -> None:
    artifacts.frames.publish(made_up_table(seed=1), feature_service="", feature_service_hash="")

    result = decide(artifacts)

    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "nothing can serve: it was trained on frame" in str(failure.step_failure_data.user_failure_data)
    assert artifacts.models.champion() is None


def test_a_decision_that_was_cut_off_stops_neither_promotions_nor_rollbacks(artifacts: Artifacts) -> None:
    decide(artifacts)
    with (artifacts.models.folder / "decisions.jsonl").open("a") as file:
        file.write('{"decided_at": "2012-11-0')
    new_candidate(artifacts)

    assert decide(artifacts).success
    assert roll_back(artifacts).success

    assert [each.outcome for each in artifacts.models.decisions()] == ["promoted", "promoted", "rolled back"]
    assert artifacts.models.champion() == artifacts.models.bundle("first")
