"""An ingestion in the graph: what is accepted, where refused files go, and which rows a correction touches."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from feature_repo.database import PostgresSettings
from feature_repo.paths import data_dir
from forecast_assets.assets.features import sales_features, sales_windows, store_features
from forecast_assets.assets.raw import ACCEPTED_CHECK, HISTORY_CHECK, raw_drop
from forecast_assets.ingest import quarantine as quarantine_module
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table
from forecast_assets.ingest.files import DropRefusedError
from forecast_assets.ingest.fingerprint import changes, fingerprint
from forecast_assets.ingest.quarantine import quarantine
from forecast_assets.resources import Artifacts, LandingZone, Postgres
from forecast_assets.sample_data import write_sample_data

BROKEN_DATE = "train.csv line 3: Date '2010-02-31' is not a date written YYYY-MM-DD"
UNKNOWN_STORE = "train.csv line 4,218: Store 77 is not in stores.csv: add its type and size there"


@dataclass
class Shop:
    """A landing zone, and the raw files and tables that are made from it."""

    landing: Path
    artifacts: Artifacts
    settings: PostgresSettings

    def ingest(self, *tables: dg.AssetsDefinition, zone: LandingZone | None = None) -> dg.ExecuteInProcessResult:
        """What the landing zone's run does, and the tables that follow."""
        return dg.materialize(
            [raw_drop, *tables],
            resources={
                "landing_zone": zone or LandingZone(path=str(self.landing)),
                "artifacts": self.artifacts,
                "postgres": Postgres(),
            },
            raise_on_error=False,
        )

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.settings.url) as connection:
            return connection.execute(sql).fetchall()

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.landing / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    @property
    def quarantined(self) -> dict[str, str]:
        """The files in quarantine with their contents."""
        return {path.name: path.read_text() for path in (self.landing / "quarantine").rglob("*.*")}


@pytest.fixture
def shop(landing: Path, tmp_path: Path, database: PostgresSettings, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("POSTGRES_HOST", database.host)
    monkeypatch.setenv("POSTGRES_DB", database.database)
    monkeypatch.setenv("POSTGRES_SSLMODE", "disable")
    return Shop(landing, Artifacts(path=str(tmp_path / "artifacts")), database)


def checks(result: dg.ExecuteInProcessResult, name: str) -> dict[str, bool]:
    evaluations = result.get_asset_check_evaluations()
    return {each.asset_key.to_user_string(): each.passed for each in evaluations if each.check_name == name}


def published(shop: Shop) -> list[list[tuple[Any, ...]]]:
    """Every published row with the transaction that wrote it."""
    tables = ("sales_features", "store_features", "sales_windows", "feature_table_versions")
    return [shop.query(f"SELECT xmin::text, t::text FROM {table} t ORDER BY 2") for table in tables]


def test_a_broken_file_is_moved_to_quarantine_with_its_reason_and_everything_stays(shop: Shop) -> None:
    assert shop.ingest(sales_features, store_features, sales_windows).success
    before, in_use = published(shop), shop.artifacts.raw.contents()
    shop.edit("train.csv", "2010-02-12", "2010-02-31")
    broken = (shop.landing / "train.csv").read_text()

    result = shop.ingest(sales_features, store_features, sales_windows)

    assert not result.success
    assert published(shop) == before
    assert shop.artifacts.raw.contents() == in_use
    assert sorted(path.name for path in shop.landing.iterdir()) == ["features.csv", "quarantine", "stores.csv"]
    assert set(shop.quarantined) == {"train.csv", "train.csv.reason.txt"}
    assert shop.quarantined["train.csv"] == broken
    assert shop.quarantined["train.csv.reason.txt"].startswith(BROKEN_DATE)
    assert result.run_id in shop.quarantined["train.csv.reason.txt"]
    failure = next(event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure)
    assert f"The file was moved to {shop.landing}/quarantine/" in str(failure and failure.description)


def test_a_refusal_shows_as_a_failed_check_of_its_file_and_passes_again_with_a_good_one(shop: Shop) -> None:
    good = (shop.landing / "train.csv").read_text()
    shop.edit("train.csv", "2010-02-12", "2010-02-31")

    refused = shop.ingest()
    evaluation = refused.get_asset_check_evaluations()[0]
    assert checks(refused, ACCEPTED_CHECK) == dict.fromkeys(["train_csv", "features_csv", "stores_csv"], False)
    assert checks(refused, HISTORY_CHECK) == {"train_csv": True}
    assert BROKEN_DATE in str(evaluation.metadata["reason"].value)
    assert "quarantine" in str(evaluation.metadata["quarantined_as"].value)

    (shop.landing / "train.csv").write_text(good)
    assert checks(shop.ingest(), ACCEPTED_CHECK) == dict.fromkeys(["train_csv", "features_csv", "stores_csv"], True)


def test_the_history_tells_every_arrival_whether_it_was_accepted_and_why_not(shop: Shop) -> None:
    good = (shop.landing / "train.csv").read_text()
    shop.ingest()
    shop.ingest()
    shop.edit("train.csv", "2010-02-12", "2010-02-31")
    shop.ingest()
    (shop.landing / "train.csv").write_text(good)
    shop.ingest()
    shop.edit("stores.csv", "1,C,", "1,B,")
    shop.ingest()

    history = shop.query(
        "SELECT file, decision, in_force, rows, first_week::text, last_week::text, left(reason, 16) "
        "FROM forecast_assets.ingest_history"
    )

    assert history == [
        ("stores.csv", "accepted", True, 3, None, None, None),
        ("train.csv", "refused", False, None, None, None, "train.csv line 3"),
        ("stores.csv", "accepted", False, 3, None, None, None),
        ("features.csv", "accepted", True, 546, "2010-02-05", "2013-07-26", None),
        ("train.csv", "accepted", True, 4216, "2010-02-05", "2012-10-26", None),
    ]


def test_a_file_that_does_not_agree_with_the_others_stays_to_be_loaded_when_they_come(shop: Shop) -> None:
    with (shop.landing / "train.csv").open("a") as file:
        file.write("77,1,2010-02-05,1.5,FALSE\n")

    refused = shop.ingest()

    assert not refused.success
    assert (shop.landing / "train.csv").exists()
    assert shop.quarantined["train.csv.reason.txt"].startswith(UNKNOWN_STORE)
    with (shop.landing / "stores.csv").open("a") as file:
        file.write("77,A,1000\n")
    assert shop.ingest().success


def test_a_file_that_the_sender_has_replaced_meanwhile_is_not_taken_for_the_broken_one(shop: Shop) -> None:
    good = (shop.landing / "train.csv").read_text()
    shop.edit("train.csv", "2010-02-12", "2010-02-31")
    with pytest.raises(DropRefusedError) as refusal:
        read_drop(shop.landing)
    (shop.landing / "train.csv").write_text(good)

    assert quarantine(refusal.value, run_id="run") is None
    assert (shop.landing / "train.csv").read_text() == good
    assert shop.quarantined == {}


def test_of_a_file_to_be_copied_that_was_replaced_meanwhile_nothing_is_kept(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (shop.landing / "train.csv").open("a") as file:
        file.write("77,1,2010-02-05,1.5,FALSE\n")
    with pytest.raises(DropRefusedError) as refusal:
        read_drop(shop.landing)
    copy = shutil.copy2

    def slow_copy(source: Path, target: Path) -> None:
        copy(source, target)
        source.write_text("the next one")

    monkeypatch.setattr(shutil, "copy2", slow_copy)

    assert quarantine(refusal.value, run_id="run") is None
    assert shop.quarantined == {}
    assert (shop.landing / "train.csv").read_text() == "the next one"


def test_quarantine_keeps_the_files_refused_last(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine_module, "KEPT", 2)
    for number in range(4):
        (shop.landing / "train.csv").write_text(f"refused {number}\n")
        with pytest.raises(DropRefusedError) as refusal:
            read_drop(shop.landing)
        assert quarantine(refusal.value, run_id="run")

    assert sorted(path.read_text() for path in shop.landing.glob("quarantine/*/train.csv")) == [
        "refused 2\n",
        "refused 3\n",
    ]


def test_a_corrected_week_rewrites_exactly_the_rows_that_it_has_an_effect_on(shop: Shop) -> None:
    shop.ingest(sales_features)
    before = read_drop(shop.landing)
    first = {(store, dept, day): xmin for store, dept, day, xmin in rows_of(shop)}
    line = (shop.landing / "train.csv").read_text().splitlines()[60]
    store, dept, day, amount, _ = line.split(",")
    shop.edit("train.csv", line, line.replace(f",{amount},", f",{float(amount) + 1000:.2f},"))

    result = shop.ingest(sales_features)

    rewritten = {(s, d, week) for s, d, week, xmin in rows_of(shop) if first[s, d, week] != xmin}
    after = read_drop(shop.landing)
    tables = [sales_features_table(drop).rows for drop in (before, after)]
    key = ("store", "dept", "date")
    differs, gone = changes(fingerprint(tables[0], key), fingerprint(tables[1], key), key)
    expected = {tuple(row.values()) for row in tables[1].select(key).filter(differs).to_pylist()}
    assert rewritten == {(s, d, str(week)) for s, d, week in expected}
    assert gone.num_rows == 0
    assert (int(store), int(dept), day) in rewritten
    assert {(s, d) for s, d, _ in rewritten} == {(int(store), int(dept))}
    assert min(week for *_, week in rewritten) == day
    (event,) = [e for e in result.asset_materializations_for_node("raw_drop") if e.asset_key.path == ["train_csv"]]
    counts = {name: event.metadata[f"rows_{name}"].value for name in ("added", "corrected", "removed")}
    assert counts == {"added": 0, "corrected": 1, "removed": 0}


def rows_of(shop: Shop) -> list[tuple[Any, ...]]:
    return shop.query("SELECT store, dept, date::text, xmin::text FROM sales_features")


def test_a_drop_without_rows_that_were_there_before_is_loaded_and_warned_of(shop: Shop, tmp_path: Path) -> None:
    assert checks(shop.ingest(), HISTORY_CHECK) == {"train_csv": True}
    write_sample_data(tmp_path / "shorter", size=0.01, through=read_drop(shop.landing).train.weeks[1].replace(day=19))  # type: ignore[index]
    shutil.copy(tmp_path / "shorter" / "train.csv", shop.landing / "train.csv")

    result = shop.ingest()

    assert result.success
    assert checks(result, HISTORY_CHECK) == {"train_csv": False}
    (metadata,) = (e.metadata for e in result.get_asset_check_evaluations() if e.check_name == HISTORY_CHECK)
    gone = metadata["rows_removed"].value
    assert str(metadata["reason"].value).startswith(f"{gone} rows accepted before are not in {shop.landing}/train.csv")
    assert shop.query("SELECT max(week)::text FROM sold_weeks") == [("2012-10-26",)]


@pytest.mark.parametrize("is_there", [False, True], ids=["no folder", "a folder of earlier sample data"])
def test_without_landing_dir_nothing_takes_the_place_of_a_drop_from_elsewhere(
    shop: Shop, small_drop: Path, is_there: bool
) -> None:
    shop.ingest()
    before, shop.landing = shop.artifacts.raw.contents(), data_dir() / "landing"
    if is_there:
        shutil.copytree(small_drop, shop.landing)
        shop.edit("stores.csv", "1,C,", "1,B,")

    result = shop.ingest(zone=LandingZone())

    assert not result.success
    (failure,) = (event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure)
    assert "LANDING_DIR is not set" in str(failure and failure.description)
    assert shop.artifacts.raw.contents() == before
    assert shop.landing.exists() == is_there


def test_without_landing_dir_a_drop_is_taken_from_the_folder_that_the_one_before_came_from(
    shop: Shop, small_drop: Path
) -> None:
    shop.landing = data_dir() / "landing"
    shutil.copytree(small_drop, shop.landing)
    shop.ingest(zone=LandingZone())
    shop.edit("stores.csv", "1,C,", "1,B,")

    assert shop.ingest(zone=LandingZone()).success


def test_one_asset_of_the_drop_can_be_made_alone(shop: Shop) -> None:
    result = dg.materialize(
        [raw_drop],
        selection=dg.AssetSelection.assets("stores_csv"),
        resources={
            "landing_zone": LandingZone(path=str(shop.landing)),
            "artifacts": shop.artifacts,
            "postgres": Postgres(),
        },
    )

    assert [each.asset_key.path for each in result.asset_materializations_for_node("raw_drop")] == [["stores_csv"]]
    assert checks(result, ACCEPTED_CHECK) == {"stores_csv": True}


def test_a_table_without_an_accepted_drop_says_what_to_make_first(shop: Shop) -> None:
    result = dg.materialize(
        [sales_windows], resources={"artifacts": shop.artifacts, "postgres": Postgres()}, raise_on_error=False
    )

    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert "holds no accepted drop yet: materialize train_csv first" in str(failure.step_failure_data.error)
