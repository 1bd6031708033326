"""What the automation asks for, tick by tick, after what happened to the graph."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import StepMaterializationData

from forecast_assets.automation import CONDITIONS
from forecast_assets.definitions import defs

RAW = ["train_csv", "features_csv", "stores_csv"]
TABLES = ["sales_features", "store_features", "sales_windows"]
VIEWS = [
    "feast_registry",
    "sales_history_features",
    "store_external_features",
    "sales_window_features",
    "feature_transformations",
    "temporal_transformations",
]
FORECASTS = ["online_features", "weekly_forecasts", "horizon_forecasts", "forecast_accuracy"]
AFTER_A_DROP = {*TABLES, *VIEWS, "training_frame", *FORECASTS}
AFTER_A_FRAME = {"candidate_model", "champion_model", *FORECASTS}
FRAME = dg.AssetKey("training_frame")
BLOCKING = ["schema_and_ranges", "one_row_per_labelled_week", "no_leakage"]


@dataclass
class System:
    """The real graph on an instance in memory; events are reported as runs would report them."""

    instance: dg.DagsterInstance
    cursor: Any = None
    checks: set[str] = field(default_factory=set)

    def tick(self) -> set[str]:
        """One tick of the automation sensor: the assets that it asks for."""
        everything = dg.AssetSelection.all() | dg.AssetSelection.all_asset_checks()
        result = dg.evaluate_automation_conditions(defs, self.instance, everything, cursor=self.cursor)
        self.cursor = result.cursor
        due = [each.key for each in result.results if not each.true_subset.is_empty]
        self.checks = {key.name for key in due if isinstance(key, dg.AssetCheckKey)}
        return {name for name in CONDITIONS if result.get_num_requested(dg.AssetKey(name))}

    def made(self, *names: str, version: str) -> None:
        """A run of its own made each of these assets."""
        for name in names:
            tags = {"dagster/data_version": version}
            self.instance.report_runless_asset_event(dg.AssetMaterialization(name, tags=tags))
            if name == "training_frame":
                self.checked(passed=True)

    def checked(self, *, passed: bool, check: str = "no_leakage") -> None:
        """The frame's blocking checks were made; all passed, or one did not."""
        for evaluation in evaluations(passed, check):
            self.instance.report_runless_asset_event(evaluation)

    def started(self, *names: str) -> str:
        """A run that makes these assets has begun."""
        selection = frozenset(dg.AssetKey(name) for name in names)
        job = defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=selection)
        run = self.instance.create_run_for_job(
            job_def=job, asset_selection=selection, status=dg.DagsterRunStatus.STARTED
        )
        return run.run_id

    def wrote(self, run_id: str, *names: str, version: str) -> dg.DagsterRun:
        """The run, which goes on, made these assets."""
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        for name in names:
            event = dg.AssetMaterialization(name, tags={"dagster/data_version": version})
            self._report(run, "ASSET_MATERIALIZATION", StepMaterializationData(event))
        return run

    def ended(self, run_id: str, *names: str, version: str) -> None:
        """The run made these assets, and came to its end."""
        run = self.wrote(run_id, *names, version=version)
        if "training_frame" in names:
            for evaluation in evaluations(passed=True):
                self._report(run, "ASSET_CHECK_EVALUATION", evaluation)
        self._report(run, "PIPELINE_SUCCESS", None)

    def failed(self, run: dg.DagsterRun) -> None:
        """The run came to its end at the next step."""
        self._report(run, "PIPELINE_FAILURE", None)

    def _report(self, run: dg.DagsterRun, kind: str, data: Any) -> None:
        event = dg.DagsterEvent(kind, job_name=run.job_name, event_specific_data=data)
        self.instance.report_dagster_event(event, run_id=run.run_id)


def evaluations(passed: bool, check: str = "no_leakage") -> list[dg.AssetCheckEvaluation]:
    """Of the frame's blocking checks; those other than ``check`` pass."""
    return [dg.AssetCheckEvaluation(FRAME, name, passed=passed or name != check, metadata={}) for name in BLOCKING]


@pytest.fixture
def system() -> Iterator[System]:
    """A graph that has been made once, and looked at by the automation since."""
    with dg.DagsterInstance.ephemeral() as instance:
        system = System(instance)
        everything = [*RAW, *TABLES, *VIEWS, "training_frame", "candidate_model", "champion_model", *FORECASTS]
        system.made(*everything, version="1")
        system.tick()
        yield system


def test_with_nothing_new_nothing_is_asked_for(system: System) -> None:
    assert system.tick() == set()
    assert system.tick() == set()


def test_the_same_drop_again_is_answered_by_nothing(system: System) -> None:
    system.made(*RAW, version="1")

    assert system.tick() == set()
    assert system.tick() == set()


def test_a_new_drop_brings_tables_views_frame_and_a_forecast_by_the_present_champion_once(system: System) -> None:
    system.made(*RAW, version="2")

    assert system.tick() == AFTER_A_DROP
    assert system.checks == {"no_leakage", "complete_weeks", "no_drift", "inputs_as_in_training"}
    assert system.tick() == set()


def test_only_what_depends_on_the_file_that_changed_is_made_again(system: System) -> None:
    system.made("stores_csv", version="2")

    requested = system.tick()

    assert "store_features" in requested
    assert requested.isdisjoint({"sales_features", "sales_windows"})


def test_a_frame_with_new_content_has_a_model_trained_promoted_and_used(system: System) -> None:
    system.made("training_frame", version="2")

    assert system.tick() == AFTER_A_FRAME
    assert system.tick() == set()


def test_a_frame_with_the_same_content_trains_nothing(system: System) -> None:
    system.made("training_frame", version="1")

    assert system.tick() == set()


@pytest.mark.parametrize("check", BLOCKING)
def test_a_frame_that_fails_a_blocking_check_trains_nothing_until_it_passes(system: System, check: str) -> None:
    system.made("training_frame", version="2")
    system.checked(passed=False, check=check)
    assert system.tick() == set()

    system.made("training_frame", version="3")

    assert system.tick() == AFTER_A_FRAME


def test_without_an_upstream_nothing_downstream_of_it_is_asked_for() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        system = System(instance)
        system.tick()
        system.made("train_csv", "stores_csv", version="1")

        assert system.tick() == {"sales_windows"}


@pytest.mark.parametrize("running_before", [True, False], ids=["running before", "started after"])
def test_the_first_drop_makes_a_frame_and_that_the_first_model_and_forecasts(running_before: bool) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        system = System(instance)
        if running_before:
            assert system.tick() == set()
        system.made(*RAW, version="1")

        first = system.tick()
        run = system.started(*first)
        assert system.tick() == set()
        system.ended(run, *first, version="1")

        assert first == {*TABLES, *VIEWS, "training_frame"}
        assert system.tick() == AFTER_A_FRAME
        assert system.tick() == set()


def test_a_drop_that_comes_while_tables_are_being_made_is_answered_after_that(system: System) -> None:
    system.made("train_csv", version="2")
    made = system.tick()
    run = system.started(*made)
    assert system.tick() == set()
    system.made("train_csv", version="3")
    assert system.tick() == set()

    system.ended(run, *made, version="2")

    requested = system.tick()
    assert requested >= {*TABLES[:1], "training_frame"}


def test_a_drop_is_answered_when_all_of_its_files_are_there(system: System) -> None:
    run = system.started(*RAW)
    for file in RAW[:2]:
        system.wrote(run, file, version="2")
        assert system.tick() == set()

    system.ended(run, RAW[2], version="2")

    assert system.tick() == AFTER_A_DROP


def test_a_frame_that_changes_during_a_training_is_trained_on_after_it(system: System) -> None:
    system.made("training_frame", version="2")
    trained = system.tick()
    run = system.started(*trained)
    assert system.tick() == set()
    system.made("training_frame", version="3")
    assert system.tick() == set()

    system.ended(run, *trained, version="2")

    assert system.tick() == AFTER_A_FRAME
    assert system.tick() == set()


def test_a_candidate_of_an_older_frame_that_cannot_serve_is_followed_by_one_of_the_present_frame(
    system: System,
) -> None:
    system.made("training_frame", version="2")
    run = system.started(*system.tick())
    system.made("training_frame", version="3")

    system.failed(system.wrote(run, "candidate_model", version="2"))

    assert system.tick() == AFTER_A_FRAME
    assert system.tick() == set()


def test_two_drops_between_two_ticks_are_answered_by_one_run(system: System) -> None:
    system.made("train_csv", version="2")
    system.made("train_csv", "features_csv", version="3")

    assert system.tick() == AFTER_A_DROP
    assert system.tick() == set()


def test_a_full_refresh_by_hand_is_followed_by_nothing(system: System) -> None:
    everything = [*RAW, *CONDITIONS]
    run = system.started(*everything)
    system.tick()
    system.ended(run, *everything, version="2")

    assert system.tick() == set()
