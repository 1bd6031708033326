"""What the code location offers, as a whole: whoever adds, renames or drops something sees it here."""

import os
import re
import time
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from feature_repo.features import TAGS
from feature_repo.paths import PROJECT_ROOT
from forecast_assets.automation import CONDITIONS
from forecast_assets.definitions import defs
from forecast_assets.freshness import POLICIES
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.landing import PATIENCE
from forecast_assets.resources import Artifacts, LandingZone


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return defs.get_repository_def()


def test_the_checks_and_those_that_stop_what_is_downstream(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    checks = sorted(f"{key.asset_key.to_user_string()}: {key.name}" for key in graph.asset_check_keys)
    blocking = sorted(key.name for key in graph.asset_check_keys if graph.get(key).blocking)

    assert checks == [
        "features_csv: last_arrival_accepted",
        "forecast_accuracy: better_than_naive_lately",
        "forecast_accuracy: calibrated_lately",
        "online_features: inputs_as_in_training",
        "online_features: online_equals_offline",
        "stores_csv: last_arrival_accepted",
        "train_csv: keeps_history",
        "train_csv: last_arrival_accepted",
        "training_frame: complete_weeks",
        "training_frame: no_drift",
        "training_frame: no_leakage",
        "training_frame: one_row_per_labelled_week",
        "training_frame: schema_and_ranges",
    ]
    assert blocking == ["no_leakage", "one_row_per_labelled_week", "schema_and_ranges"]


def test_the_commands_of_the_readme_select_what_they_say(repository: dg.RepositoryDefinition) -> None:
    selections = re.findall(r"--select '([^']+)'", (PROJECT_ROOT / "README.md").read_text())
    selected = {each: dg.AssetSelection.from_coercible([each]).resolve(repository.asset_graph) for each in selections}

    assert selected == {
        "*": dg.AssetSelection.all().resolve(repository.asset_graph),
        "+key:weekly_forecasts": dg.AssetSelection.assets("weekly_forecasts")
        .upstream()
        .resolve(repository.asset_graph),
    }


def test_the_jobs_and_what_starts_by_itself(repository: dg.RepositoryDefinition) -> None:
    jobs = {name for name in repository.job_names if not name.startswith("__")}
    started = {each.name: each.default_status.value for each in repository.sensor_defs}
    started |= {each.name: each.default_status.value for each in repository.schedule_defs}

    assert jobs == {"ingest", "retrain", "forecast", "full_refresh", "rollback"}
    assert started == {
        "automation": "RUNNING",
        "cut_off_runs": "RUNNING",
        "landing_zone": "RUNNING",
        "tell_failed_checks": "RUNNING",
        "tell_failed_runs": "RUNNING",
        "weekly_refresh": "RUNNING",
    }


def test_the_jobs_together_make_every_asset_but_backtests(repository: dg.RepositoryDefinition) -> None:
    everything = {key.to_user_string() for key in repository.asset_graph.materializable_asset_keys}
    jobs = {
        name: {key.to_user_string() for key in repository.get_job(name).asset_layer.executable_asset_keys}
        for name in ("ingest", "retrain", "forecast", "full_refresh")
    }

    assert jobs["full_refresh"] == everything - {"backtest"}
    assert jobs["ingest"] | jobs["retrain"] | jobs["forecast"] == everything - {"backtest", "forecast_accuracy"}


def test_every_asset_but_the_files_that_arrive_and_backtests_is_automated(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    automated = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).automation_condition}
    arriving = {"train_csv", "features_csv", "stores_csv"}

    assert automated == set(CONDITIONS)
    assert automated | arriving | {"backtest"} == {key.to_user_string() for key in graph.get_all_asset_keys()}


def test_whatever_loads_tables_trains_or_serves_does_so_in_its_pool(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    pools = {key.to_user_string(): graph.get(key).pools for key in graph.get_all_asset_keys()}

    tables = {"train_csv", "features_csv", "stores_csv", "sales_features", "store_features", "sales_windows"}
    assert {name for name, of in pools.items() if of == {"tables"}} == tables | {"training_frame"}
    training = {"candidate_model", "champion_model", "backtest"}
    assert {name for name, of in pools.items() if of == {"training"}} == training
    serving = {"online_features", "weekly_forecasts", "horizon_forecasts", "forecast_accuracy"}
    assert {name for name, of in pools.items() if of == {"serving"}} == serving


def test_what_comes_and_is_made_weekly_says_when_it_is_no_longer_fresh(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    policies = {key.to_user_string(): graph.get(key).freshness_policy for key in graph.get_all_asset_keys()}
    by_monday_noon = dg.FreshnessPolicy.cron("0 12 * * 1", timedelta(days=7), "UTC")

    assert {name for name, policy in policies.items() if policy == by_monday_noon} == {
        "sales_features",
        "store_features",
        "training_frame",
        "champion_model",
        "online_features",
        "weekly_forecasts",
        "horizon_forecasts",
        "forecast_accuracy",
    }
    assert {name for name, policy in policies.items() if policy and policy != by_monday_noon} == {"train_csv"}
    assert policies["train_csv"] == dg.FreshnessPolicy.time_window(timedelta(days=15), timedelta(days=8))


def test_what_is_to_be_fresh_by_monday_noon_is_made_by_the_weekly_refresh(repository: dg.RepositoryDefinition) -> None:
    schedule = repository.get_schedule_def("weekly_refresh")
    made = repository.get_job(schedule.job_name).asset_layer.executable_asset_keys

    assert schedule.cron_schedule == "0 6 * * 1"
    assert set(POLICIES) <= {key.to_user_string() for key in made}


@pytest.mark.parametrize(
    ("new", "seconds_ago"),
    [(True, PATIENCE), (True, PATIENCE / 2), (False, PATIENCE)],
    ids=["a new drop", "a drop that may still be being written", "the drop in use"],
)
def test_the_weekly_refresh_takes_files_in_only_if_their_content_is_new_and_complete(
    repository: dg.RepositoryDefinition, landing: Path, tmp_path: Path, new: bool, seconds_ago: float
) -> None:
    artifacts = Artifacts(path=str(tmp_path / "artifacts"))
    artifacts.raw.save(read_drop(landing))
    if new:
        train = (landing / "train.csv").read_text().splitlines(keepends=True)
        (landing / "train.csv").write_text("".join(train[:-1]))
    for path in landing.iterdir():
        os.utime(path, (0, time.time() - seconds_ago))
    context = dg.build_schedule_context(
        repository_def=repository, resources={"landing_zone": LandingZone(path=str(landing)), "artifacts": artifacts}
    )

    (request,) = repository.get_schedule_def("weekly_refresh").evaluate_tick(context).run_requests or ()

    everything = set(repository.get_job("full_refresh").asset_layer.executable_asset_keys)
    made = set(request.asset_selection or everything)
    raw = {dg.AssetKey(name) for name in ("train_csv", "features_csv", "stores_csv")}
    assert made == (everything if new and seconds_ago == PATIENCE else everything - raw)


def test_every_asset_has_tags_and_names_the_line_of_code_that_makes_it(repository: dg.RepositoryDefinition) -> None:
    for key in repository.asset_graph.get_all_asset_keys():
        node = repository.asset_graph.get(key)
        (reference,) = node.metadata["dagster/code_references"].code_references
        line = Path(reference.file_path).read_text().splitlines()[reference.line_number - 1]
        assert node.tags.items() >= TAGS.items()
        assert line.startswith(("@dg.asset(", "@dg.multi_asset("))
