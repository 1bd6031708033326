"""A candidate serves only if it is good enough; a refused one leaves everything as it was."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from feature_repo.paths import PROJECT_ROOT
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


def new_candidate(artifacts: Artifacts, change: Callable[[dict[str, Any]], None]) -> None:
    """A copy of the first bundle whose sidecar is changed."""
    bundle = artifacts.models.bundle("second")
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
    new_candidate(artifacts, lambda _: None)
    with (artifacts.models.bundle("second") / "best_model.pt").open("r+b") as file:
        file.seek(200)
        file.write(b"\x00\xff")

    assert not decide(artifacts).success
    assert artifacts.models.champion() == artifacts.models.bundle("first")


def test_a_champion_that_cannot_forecast_the_present_frame_has_no_say(artifacts: Artifacts) -> None:
    decide(artifacts)
    new_candidate(artifacts, lambda _: None)
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
    new_candidate(artifacts, lambda _: None)
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


def test_old_bundles_go_when_one_is_promoted_but_never_one_that_is_named(artifacts: Artifacts) -> None:
    decide(artifacts)
    for number in range(KEPT_BUNDLES + 2):
        shutil.copytree(artifacts.models.bundle("first"), artifacts.models.bundle(f"other-{number}"))
        os.utime(artifacts.models.bundle(f"other-{number}"), (2e9 + number, 2e9 + number))

    artifacts.models.promote(artifacts.models.bundle("other-0"))

    kept = {path.name for path in artifacts.models.kept()}
    assert kept == {"first", *(f"other-{number}" for number in (0, *range(2, KEPT_BUNDLES + 2)))}
