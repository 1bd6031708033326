"""The online store is filled in full or from the last time on, as needed, by the asset and by Feast's own commands."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest
from feast import FeatureStore

from benchmarks.full_size import live_keys
from feature_repo import online_postgres
from feature_repo.database import PostgresSettings
from feature_repo.definitions import ON_DEMAND_VIEWS, STORED_VIEWS, TTL
from feature_repo.features import SERIES_VIEWS
from feature_repo.materialize import last_materialized, materialize, materialize_incremental
from feature_repo.parity import compare
from feature_repo.store import REPO_PATH, _variables, apply_definitions, open_store
from forecast_assets.assets.online import online_features
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, sales_windows_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.resources import FeastStore, Postgres
from forecast_assets.sample_data import write_sample_data

# Raised by Dagster about its own resources that hold resources.
pytestmark = pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run is deprecated:DeprecationWarning")

LAST, COMING = datetime(2012, 10, 26, tzinfo=UTC), datetime(2012, 11, 2, tzinfo=UTC)
VIEWS = ("sales_history_features", "store_external_features", "feature_transformations", "temporal_transformations")
SERIES_TABLES = tuple(f"feast_online.demand_forecasting_{view}" for view in SERIES_VIEWS)


def _with_sales(line: str, sales: str) -> str:
    """A line of train.csv with other sales."""
    *series, _, is_holiday = line.split(",")
    return ",".join([*series, sales, is_holiday])


def _ended(train: str, line: str, weeks: int = 60) -> tuple[str, str]:
    """The lines of the series of ``line``, and the same without those of the last weeks."""
    series = ",".join(line.split(",")[:2]) + ","
    lines = [each for each in train.splitlines(keepends=True) if each.startswith(series)]
    return "".join(lines), "".join(lines[:-weeks])


class Installation:
    """A database whose tables hold one of two drops, with a dead series: all weeks, or all but the last."""

    def __init__(self, settings: PostgresSettings, folder: Path) -> None:
        self.settings = settings
        self._full, self._shorter = folder / "full", folder / "shorter"
        write_sample_data(self._full, size=0.01)
        write_sample_data(self._shorter, size=0.01, through=date(2012, 10, 19))
        for drop, weeks in ((self._full, 60), (self._shorter, 59)):
            train = drop / "train.csv"
            text = train.read_text()
            train.write_text(text.replace(*_ended(text, text.splitlines()[1], weeks)))

    def publish(self, *, shorter: bool = False, correct: tuple[str, str] | None = None) -> None:
        drop = self._shorter if shorter else self._full
        train = drop / "train.csv"
        text = train.read_text()
        if correct:
            assert correct[0] in text
            train.write_text(text.replace(*correct))
        for table in (sales_features_table, store_features_table, sales_windows_table):
            publish(table(read_drop(drop)), self.settings, run_id="")
        train.write_text(text)

    def last_line(self, *, live: bool) -> str:
        """The last line of train.csv of a series that is forecast, or of one that is not any more."""
        lines = (self._full / "train.csv").read_text().splitlines()[1:]
        last: dict[tuple[str, str], str] = {}
        for line in lines:
            store, dept, *_ = line.split(",")
            last[store, dept] = line
        alive = {(str(key["store"]), str(key["dept"])) for key in live_keys(self.settings)[0]}
        return next(line for series, line in last.items() if (series in alive) is live)

    def end_series(self, line: str) -> tuple[int, int]:
        """Take the last 60 weeks of the series of ``line`` away; its store and department."""
        self.publish(correct=_ended((self._full / "train.csv").read_text(), line))
        store, dept, *_ = line.split(",")
        return int(store), int(dept)

    def online(self) -> dict[str, list[tuple[Any, ...]]]:
        """What is served: all rows of all views."""
        with psycopg.connect(self.settings.url) as connection:
            return {
                view: connection.execute(
                    f"SELECT * FROM feast_online.demand_forecasting_{view} ORDER BY 1, 2"
                ).fetchall()
                for view in VIEWS
            }

    def newest(self) -> dict[str, datetime]:
        """The latest event time of each view."""
        with psycopg.connect(self.settings.url) as connection:
            return {
                view: connection.execute(
                    f"SELECT max(event_ts) FROM feast_online.demand_forecasting_{view}"
                ).fetchall()[0][0]
                for view in VIEWS
            }


@pytest.fixture(scope="module")
def installation(module_database: PostgresSettings, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation(module_database, tmp_path_factory.mktemp("drops"))


@pytest.fixture
def store(installation: Installation) -> Iterator[FeatureStore]:
    """Nothing was materialized yet."""
    with psycopg.connect(installation.settings.url) as connection:
        connection.execute("DROP SCHEMA IF EXISTS feast_online, feast_registry CASCADE")
    with open_store(installation.settings) as store:
        apply_definitions(store)
        yield store


@pytest.fixture
def asset(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Materializes ``online_features`` and says why it was in full."""
    for name, value in _variables(installation.settings).items():
        if name.startswith("POSTGRES_"):
            monkeypatch.setenv(name, value)
    with dg.DagsterInstance.ephemeral() as instance:

        def run(**config: Any) -> str:
            postgres = Postgres()
            result = dg.materialize(
                [online_features],
                instance=instance,
                resources={"postgres": postgres, "feast": FeastStore(postgres=postgres)},
                run_config={"ops": {"online_features": {"config": config}}},
            )
            (check,) = result.get_asset_check_evaluations()
            assert check.passed
            (event,) = result.asset_materializations_for_node("online_features")
            return str(event.metadata["in_full"].value)

        yield run


def test_a_new_week_is_written_alone_and_ends_as_if_all_had_been_written(
    store: FeatureStore, installation: Installation
) -> None:
    installation.publish(shorter=True)
    materialize_incremental(store, LAST)
    assert last_materialized(store) == LAST
    installation.publish()

    materialize_incremental(store, COMING)

    one_by_one = installation.online()
    assert last_materialized(store) == COMING
    materialize(store, COMING)
    assert one_by_one == installation.online()


def test_the_asset_writes_in_full_only_where_it_has_to(
    store: FeatureStore, installation: Installation, asset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.publish(shorter=True)
    assert asset() == "the online store was not filled from here before"
    installation.publish()
    assert asset() == "no: only the weeks since the last time"
    before = installation.online()
    store.materialize(LAST, LAST, feature_views=["store_external_features"])
    assert asset() == "it was filled up to 2012-10-26 by something else"
    assert installation.online() == before

    for line, unchanged in ((installation.last_line(live=False), True), (installation.last_line(live=True), False)):
        installation.publish(correct=(line, _with_sales(line, "123.45")))
        assert asset() == "rows of weeks before 2012-11-02 have changed"
        assert (installation.online() == before) is unchanged

    installation.publish(shorter=True)
    assert asset() == "the coming week was 2012-11-02 before"
    assert set(installation.newest().values()) == {LAST}, "later rows would be taken for newer ones"
    monkeypatch.setattr("forecast_assets.online_state.inspect.getsource", lambda _: "another formula")
    assert asset() == "definitions of features have changed"


@pytest.mark.parametrize("write", [materialize, materialize_incremental])
def test_a_series_that_ends_is_served_no_more(
    store: FeatureStore, installation: Installation, write: Callable[[FeatureStore, datetime], None]
) -> None:
    installation.publish()
    materialize(store, COMING)
    alive, _ = live_keys(installation.settings)

    ended = installation.end_series(installation.last_line(live=True))
    live = [(key["store"], key["dept"]) for key in live_keys(installation.settings)[0]]
    parity = compare(store, live, COMING)
    write(store, COMING)

    assert len(live) == len(alive) - 1
    assert (parity.not_live, parity.missing) == ((ended,), ())
    assert parity.differences == [f"1 series are served but not live, first store {ended[0]}, dept {ended[1]}"]
    with psycopg.connect(installation.settings.url) as connection:
        served = [connection.execute(f"SELECT store, dept FROM {table}").fetchall() for table in SERIES_TABLES]
    assert all(sorted(each) == live for each in served)
    assert compare(store, live, COMING).differences == []
    ended_online = installation.online()
    materialize(store, COMING)
    assert installation.online() == ended_online


def test_nobody_sees_a_part_of_a_materialization_and_nothing_is_left_of_one_that_fails(
    store: FeatureStore, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.publish(shorter=True)
    materialize(store, LAST)
    before = installation.online()
    installation.publish()
    seen: list[set[datetime]] = []
    original = online_postgres._take_over

    def fail_at_the_last_view(*arguments: Any) -> None:
        original(*arguments)
        seen.append(set(installation.newest().values()))
        if len(seen) == len(STORED_VIEWS) + len(ON_DEMAND_VIEWS):
            raise ValueError("the last view cannot be written")

    monkeypatch.setattr(online_postgres, "_take_over", fail_at_the_last_view)
    with pytest.raises(ValueError, match="the last view"):
        materialize(store, COMING)

    assert installation.online() == before
    assert all(times == {LAST} for times in seen)
    assert last_materialized(store) == LAST
    monkeypatch.undo()
    materialize_incremental(store, COMING)
    assert set(installation.newest().values()) == {COMING}


def test_a_week_without_any_series_is_refused_and_all_stays(store: FeatureStore, installation: Installation) -> None:
    installation.publish()
    materialize(store, COMING)
    before = installation.online()

    with pytest.raises(ValueError, match="no series has a row of the week up to 2012-12-28"):
        materialize(store, COMING + timedelta(weeks=8))

    assert installation.online() == before


def test_feasts_own_materialize_writes_the_same(store: FeatureStore, installation: Installation) -> None:
    installation.publish()
    store.materialize(COMING - TTL, COMING)
    keys, week = live_keys(installation.settings)
    plain = installation.online()
    live = {(key["store"], key["dept"]) for key in keys}
    parity = compare(store, sorted(live), COMING)

    assert week == COMING
    assert parity.first == ()
    assert parity.not_live, "it leaves the others"
    materialize(store, COMING)
    assert installation.online() == {
        view: [row for row in rows if view == "store_external_features" or row[:2] in live]
        for view, rows in plain.items()
    }


@pytest.mark.usefixtures("store")
def test_feasts_command_line_materializes_data_that_end_long_before_today(installation: Installation) -> None:
    installation.publish()
    feast = Path(sys.executable).with_name("feast")

    result = subprocess.run(
        [feast, "-c", REPO_PATH, "materialize-incremental", COMING.isoformat()],
        env={**os.environ, **_variables(installation.settings)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.returncode == 0, result.stdout + result.stderr
    keys, _ = live_keys(installation.settings)
    with open_store(installation.settings) as store:
        assert compare(store, [(key["store"], key["dept"]) for key in keys], COMING).first == ()
