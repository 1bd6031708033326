"""Bundles are found, kept and removed; decisions are written one after the other."""

import os
import threading
from pathlib import Path

import dagster as dg
import pytest

from forecast_assets.model_store import KEPT_BUNDLES, KEPT_CHAMPIONS, ModelStore
from forecast_assets.training_run import repetition_name


@pytest.fixture
def models(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def folder(models: ModelStore, name: str, made: float, *, bundle: bool = True) -> Path:
    """A bundle, or what a training that failed has left, as old as is said."""
    path = models.bundle(name)
    path.mkdir(parents=True)
    (path / ("bundle.json" if bundle else "state-000001.pt")).touch()
    os.utime(path, (made, made))
    return path


def serve(models: ModelStore, bundle: Path) -> None:
    models.record("promoted", bundle, run_id="", reasons=[], numbers={})
    models.promote(bundle)


def test_the_newest_bundles_stay_and_those_that_are_named_used_or_were_replaced(models: ModelStore) -> None:
    champions = [folder(models, f"champion-{number}", number) for number in range(KEPT_CHAMPIONS + 2)]
    candidate, used, unnamed = (folder(models, name, 100) for name in ("candidate", "used", "unnamed"))
    newest = [folder(models, f"newest-{number}", 200) for number in range(KEPT_BUNDLES)]
    for bundle in champions:
        serve(models, bundle)
    models.set_candidate(candidate)

    models.remove_old([used])

    assert {*models.kept()} == {*champions[1:], candidate, used, *newest}
    assert not unnamed.exists()


def test_what_failed_trainings_left_is_no_bundle_and_goes_with_the_bundles_of_its_time(models: ModelStore) -> None:
    old = folder(models, "failed-1.checkpoints", 1, bundle=False)
    bundles = [folder(models, f"bundle-{number}", 10 + number) for number in range(KEPT_BUNDLES)]
    for number in range(KEPT_BUNDLES):
        folder(models, f"failed-{number + 2}.checkpoints", 100 + number, bundle=False)

    models.remove_old()
    assert sorted(models.kept()) == sorted(bundles)
    assert old.exists()

    newer = folder(models, "newer", 200)
    models.remove_old()
    assert sorted(models.kept()) == sorted([newer, *bundles[1:]])
    assert not old.exists()
    assert len(list((models.folder / "bundles").glob("*.checkpoints"))) == KEPT_BUNDLES


def test_a_training_is_known_by_its_name_and_its_repetitions_by_theirs(models: ModelStore) -> None:
    first = folder(models, "abc-def", 1)
    again = folder(models, "abc-def-0123abcd", 2, bundle=False)  # damaged
    for other in ("abc-def.checkpoints", "abc-def-0123abcd.checkpoints", "abc-de", "xyz-def"):
        folder(models, other, 3)

    assert models.trained_as("abc-def") == [again, first]


def test_a_run_asks_for_the_repetition_of_the_one_that_it_goes_on_with() -> None:
    def run(status: dg.DagsterRunStatus, parent: dg.DagsterRun | None = None) -> dg.DagsterRun:
        made = dg.DagsterRun(
            job_name="retrain",
            status=status,
            parent_run_id=parent.run_id if parent else None,
            root_run_id=(parent.root_run_id or parent.run_id) if parent else None,
        )
        instance.add_run(made)
        return made

    with dg.DagsterInstance.ephemeral() as instance:
        cut_off = run(dg.DagsterRunStatus.FAILURE)
        once_more = run(dg.DagsterRunStatus.FAILURE, cut_off)
        done = run(dg.DagsterRunStatus.SUCCESS, once_more)
        by_hand = run(dg.DagsterRunStatus.STARTED, done)

        names = [repetition_name("abc", instance, each) for each in (cut_off, once_more, done, by_hand)]

    assert names == [*[f"abc-{cut_off.run_id[:8]}"] * 3, f"abc-{by_hand.run_id[:8]}"]


def test_who_decides_waits_for_who_is_deciding(models: ModelStore) -> None:
    seen = list[Path | None]()

    def look() -> None:
        other = ModelStore(models.folder)
        with other.deciding():
            seen.append(other.champion())

    second = threading.Thread(target=look)
    with models.deciding():
        second.start()
        second.join(0.2)
        assert second.is_alive()
        serve(models, models.bundle("first"))
    second.join(10)

    assert seen == [models.bundle("first")]
