"""The whole graph on a 1 % sample, through the commands that people type."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pyarrow.parquet as pq
import pytest

from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings
from feature_repo.features import VIEWS
from feature_repo.paths import PROJECT_ROOT
from forecast_assets.definitions import defs
from forecast_assets.model_store import KEPT_BUNDLES
from forecast_assets.sample_data import write_sample_data

LAST_WEEK = "2012-10-26"
COMING_WEEK = "2012-11-02"
MATERIALIZE = ("asset", "materialize", "-m", "forecast_assets.definitions", "--select")
EVERYTHING = (*MATERIALIZE, "not key:backtest")


@dataclass(frozen=True, slots=True)
class Installation:
    """A data folder, a landing zone and a Dagster home of its own, in a folder with a space in its name."""

    folder: Path

    @property
    def landing(self) -> Path:
        return self.folder / "landing"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def environment(self) -> dict[str, str]:
        (self.folder / "home").mkdir(exist_ok=True)
        foreign = ("POSTGRES_", "DAGSTER_")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
            "FORECAST_DATA_DIR": str(self.data),
            "LANDING_DIR": str(self.landing),
            "DAGSTER_HOME": str(self.folder / "home"),
        }

    def dagster(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """``dagster …`` typed in the checkout."""
        return self._run("-m", "dagster", *arguments)

    def demo(self) -> "subprocess.CompletedProcess[str]":
        """What ``make demo`` runs."""
        return self._run("-m", "forecast_assets.demo")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows that a reader of the database sees."""
        settings = PostgresSettings.embedded(self.data / "postgres")
        with psycopg.connect(settings.url) as connection:
            return connection.execute(sql).fetchall()

    def state(self) -> dict[str, object]:
        """Everything that a run publishes, down to the version of each database row (xmin)."""
        tables = ("sales_features", "store_features", "weekly_forecasts", "ingest_ledger", "feature_table_versions")
        return {
            **{table: self.query(f"SELECT xmin, * FROM {table} ORDER BY 2, 3, 4") for table in tables},
            # As text, because NaN is not equal to itself.
            "sales_windows": self.query("SELECT xmin, t::text FROM sales_windows t ORDER BY store, dept"),
            "online": self.query(
                "SELECT * FROM feast_online.demand_forecasting_sales_history_features ORDER BY store, dept"
            ),
            "files": {
                str(path.relative_to(self.data)): (path.stat().st_mtime_ns, path.read_bytes())
                for folder in ("raw", "frames", "models")
                for path in sorted((self.data / folder).rglob("*"))
                if path.is_file()
            },
        }

    def _run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=PROJECT_ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """An installation on which everything was materialized once, up to two weeks before the sample's end."""
    installation = Installation(tmp_path_factory.mktemp("an installation"))
    write_sample_data(installation.landing, size=0.01)
    result = installation.dagster(*EVERYTHING)
    assert result.returncode == 0, result.stdout + result.stderr
    yield installation
    embedded_postgres.stop(installation.data / "postgres")


def test_one_command_leads_from_the_drop_to_a_forecast_of_every_live_series(installation: Installation) -> None:
    live = installation.query("SELECT store, dept, date::text FROM sales_features WHERE weekly_sales IS NULL")
    forecasts = installation.query("SELECT store, dept, week::text FROM weekly_forecasts")

    assert len(live) > 20
    assert sorted(forecasts) == sorted(live)
    assert {week for _, _, week in forecasts} == {COMING_WEEK}
    ordered = "p10 <= forecast AND forecast = p50 AND p50 <= p90 AND p90 < 'NaN'"
    assert installation.query(f"SELECT count(*) FROM weekly_forecasts WHERE {ordered}") == [(len(live),)]


def test_the_first_of_several_weeks_ahead_is_the_forecast_of_the_coming_week(installation: Installation) -> None:
    ahead = installation.query("SELECT store, dept, week, forecast FROM horizon_forecasts WHERE weeks_ahead = 1")
    coming = installation.query("SELECT store, dept, week, forecast FROM weekly_forecasts")

    assert [row[:3] for row in sorted(ahead)] == [row[:3] for row in sorted(coming)]
    assert [row[3] for row in sorted(ahead)] == pytest.approx([row[3] for row in sorted(coming)], rel=1e-9)
    assert installation.query("SELECT count(DISTINCT week) FROM horizon_forecasts") == [(8,)]


def test_the_parquet_file_holds_what_the_table_holds(installation: Installation) -> None:
    file = pq.read_table(installation.data / "forecasts" / f"{COMING_WEEK}.parquet")
    table = installation.query("SELECT store, dept, week, forecast, p10, p50, p90, model_version FROM weekly_forecasts")

    assert sorted(tuple(row.values()) for row in file.to_pylist()) == sorted(table)


def test_no_check_raises_a_false_alarm_on_so_few_series(installation: Installation) -> None:
    with dg.DagsterInstance.from_config(str(installation.folder / "home")) as instance:
        checks = defs.resolve_asset_graph().asset_check_keys
        latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(list(checks))

    assert {key for key, record in latest.items() if record.status.value == "SUCCEEDED"} == set(checks)


def test_every_asset_shows_what_a_reader_looks_for(installation: Installation) -> None:
    with dg.DagsterInstance.from_config(str(installation.folder / "home")) as instance:
        shown = {key.to_user_string(): stored_metadata(instance, key) for key in instance.all_asset_keys()}

    def showing(*entries: str) -> set[str]:
        return {name for name, metadata in shown.items() if set(entries) <= set(metadata)}

    raw = {"train_csv", "features_csv", "stores_csv"}
    tables = {"sales_features", "store_features", "sales_windows"}
    views = {view.name for view in VIEWS}
    forecasts = {"online_features", "weekly_forecasts"}
    assert showing("dagster/column_lineage") == tables | views | {"training_frame"} | forecasts
    assert showing("dagster/row_count", "dagster/column_schema") >= raw | tables | {"training_frame"} | forecasts
    assert showing("missing_values") == raw | tables | {"training_frame"}
    assert showing("first_week", "last_week") >= (raw - {"stores_csv"}) | tables | {"training_frame"}
    assert showing("dagster/data_version") >= raw | tables | views | {"training_frame", "champion_model"}
    assert showing("seconds") == set(shown) - raw - views - {"forecast_accuracy"}
    assert "LATERAL" in shown["training_frame"]["sql"] or "JOIN" in shown["training_frame"]["sql"]


def stored_metadata(instance: dg.DagsterInstance, asset: dg.AssetKey) -> dict[str, Any]:
    """What the last materialization left for the asset's page; its data version too."""
    event = instance.get_latest_materialization_event(asset)
    assert event is not None
    materialization = event.asset_materialization
    assert materialization is not None
    values = {name: value.value for name, value in materialization.metadata.items()}
    return values | dict(materialization.tags or {})


def test_the_frame_holds_every_labelled_row_once_and_the_champion_was_trained_on_it(installation: Installation) -> None:
    from forecast_assets.frame_store import FrameStore
    from forecast_assets.model_store import ModelStore
    from trainer.bundle import read_sidecar

    frame = FrameStore(installation.data / "frames").load()
    current = FrameStore(installation.data / "frames").current()
    champion = ModelStore(installation.data / "models").champion()
    labelled = installation.query(
        "SELECT store, dept, weekly_sales, sales_lag_52 FROM sales_features WHERE weekly_sales IS NOT NULL "
        "ORDER BY date, store, dept"
    )

    rows = frame.select(["store", "dept", "weekly_sales", "sales_lag_52"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == labelled
    assert champion is not None
    assert current is not None
    assert read_sidecar(champion)["frame"]["content_hash"] == current[1].content_hash


def test_a_second_identical_run_changes_nothing(installation: Installation) -> None:
    before = installation.state()

    result = installation.dagster(*EVERYTHING)

    assert result.returncode == 0, result.stderr
    after = installation.state()
    assert [part for part in before if before[part] != after[part]] == []


def test_a_backtest_trains_on_the_past_alone_and_forecasts_what_came_after(installation: Installation) -> None:
    bundles = installation.data / "backtest" / "models" / "bundles"
    for number in range(KEPT_BUNDLES + 1):  # of earlier backtests
        (bundles / f"earlier-{number}").mkdir(parents=True)
        (bundles / f"earlier-{number}" / "bundle.json").touch()

    result = installation.dagster(*MATERIALIZE, "backtest")

    assert result.returncode == 0, result.stderr
    weeks = installation.query("SELECT DISTINCT origin::text, week::text FROM backtest_forecasts ORDER BY 2")
    assert weeks == [("2012-09-28", week) for week in ("2012-10-05", "2012-10-12", "2012-10-19", LAST_WEEK)]
    sold = "SELECT store, dept, date, weekly_sales FROM sales_features"
    compared = "SELECT store, dept, week, weekly_sales FROM backtest_forecasts"
    assert installation.query(f"{compared} EXCEPT {sold}") == []
    assert len(list(bundles.iterdir())) == KEPT_BUNDLES


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda text: text.replace("2010-02-12", "2010-02-31", 1),
            "Date '2010-02-31' is not a date written YYYY-MM-DD",
        ),
        (lambda text: text[: text.rindex(",")], "it seems to be cut off, send it again"),
    ],
    ids=["bad date", "cut off"],
)
def test_a_bad_file_ends_with_status_1_and_leaves_everything_as_it_was(
    installation: Installation, spoil: Any, message: str
) -> None:
    before = installation.state()
    train = installation.landing / "train.csv"
    good = train.read_text()
    try:
        train.write_text(spoil(good))
        result = installation.dagster(*EVERYTHING)
    finally:
        train.write_text(good)

    assert result.returncode == 1
    assert "train.csv line " in result.stderr
    assert message in result.stderr
    assert "The drop was not loaded" in result.stderr
    after = installation.state()
    assert [part for part in before if before[part] != after[part]] == ["ingest_ledger"]


@pytest.mark.parametrize(
    "selection", ["group:features", "+key:store_features", "key:sales_windows or key:store_features"]
)
def test_a_group_one_asset_with_its_upstreams_or_several_can_be_made_alone(
    installation: Installation, selection: str
) -> None:
    result = installation.dagster("asset", "materialize", "-m", "forecast_assets.definitions", "--select", selection)

    assert result.returncode == 0, result.stderr


def test_the_demo_tells_how_it_went_and_what_to_do_next(installation: Installation) -> None:
    result = installation.demo()

    assert result.returncode == 0, result.stdout + result.stderr
    for expected in ("▸ weekly_forecasts", "this model", "lag_52", f"week of {COMING_WEEK}", "make dev", "make psql"):
        assert expected in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_the_demo_says_what_is_wrong_with_a_drop_without_a_traceback(installation: Installation) -> None:
    stores = installation.landing / "stores.csv"
    hidden = stores.with_suffix(".hidden")
    stores.rename(hidden)
    try:
        result = installation.demo()
    finally:
        hidden.rename(stores)

    assert result.returncode == 1
    # Once at the first of the checks that it fails, and once at the step.
    assert result.stdout.count("stores.csv is missing in the landing zone") == 2
    assert "Traceback" not in result.stdout + result.stderr


def test_a_drop_with_a_later_week_moves_the_forecast_on_and_keeps_the_earlier_one(tmp_path: Path) -> None:
    installation = Installation(tmp_path / "growing")
    installation.folder.mkdir()
    write_sample_data(installation.landing, size=0.01, through=_date("2012-10-19"))
    first = installation.dagster(*EVERYTHING)
    shutil.rmtree(installation.landing)
    write_sample_data(installation.landing, size=0.01)

    second = installation.dagster(*EVERYTHING)

    try:
        assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
        weeks = installation.query("SELECT DISTINCT week::text FROM weekly_forecasts ORDER BY 1")
        assert weeks == [(LAST_WEEK,), (COMING_WEEK,)]
        ledger = installation.query("SELECT file, count(*) FROM ingest_ledger GROUP BY 1 ORDER BY 1")
        assert ledger == [("features.csv", 2), ("stores.csv", 1), ("train.csv", 2)]
    finally:
        embedded_postgres.stop(installation.data / "postgres")


def _date(text: str) -> Any:
    import datetime

    return datetime.date.fromisoformat(text)
