"""A candidate serves only if it is good enough; a refused one leaves everything as it was."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from feature_repo.paths import PROJECT_ROOT
from forecast_assets.assets.model import champion_model
from forecast_assets.resources import Artifacts
from trainer.spec import TrainSpec

sys.path.insert(0, str(PROJECT_ROOT / "tests" / "trainer"))
from trainer_frames import made_up_table


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    """A published frame and one bundle trained on it, to be copied."""
    artifacts = Artifacts(path=str(tmp_path_factory.mktemp("trained")))
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
    """A copy of the first bundle whose own word on itself is changed."""
    bundle = artifacts.models.bundle("second")
    shutil.copytree(artifacts.models.bundle("first"), bundle)
    facts = json.loads((bundle / "bundle.json").read_text())
    change(facts)
    (bundle / "bundle.json").write_text(json.dumps(facts))
    artifacts.models.set_candidate(bundle)


def test_the_first_good_candidate_becomes_the_champion(artifacts: Artifacts) -> None:
    result = decide(artifacts)

    assert result.success
    assert artifacts.models.champion() == artifacts.models.bundle("first")
    assert metadata(result)["promoted"] is True


def test_a_candidate_no_better_than_a_naive_forecast_cannot_be_the_first_champion(artifacts: Artifacts) -> None:
    new_candidate(artifacts, lambda facts: facts["scores"].update(wmae=1e9))

    result = decide(artifacts)

    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "does not beat the best naive forecast" in str(failure.step_failure_data.user_failure_data)
    assert artifacts.models.champion() is None


def test_a_worse_candidate_is_refused_and_the_champion_stays(artifacts: Artifacts) -> None:
    decide(artifacts)
    best = json.loads((artifacts.models.bundle("first") / "bundle.json").read_text())["scores"]["wmae"]
    new_candidate(artifacts, lambda facts: facts["scores"].update(wmae=best * 1.05))

    result = decide(artifacts)

    assert result.success
    assert artifacts.models.champion() == artifacts.models.bundle("first")
    told = metadata(result)
    assert told["promoted"] is False
    assert "worse than the champion's" in told["reasons"]
    assert told["eval/wmae"] == pytest.approx(best)


def test_a_candidate_whose_weights_are_corrupt_is_not_promoted(artifacts: Artifacts) -> None:
    decide(artifacts)
    new_candidate(artifacts, lambda facts: facts["scores"].update(wmae=1.0))
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
