"""What was forecast before a week was sold stays, whichever drops come; readers see what holds by the drop in use."""

import datetime
import random
import threading
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.database import PostgresSettings
from forecast_assets.forecast_table import create_forecast_tables, publish_forecasts, write_forecasts
from forecast_assets.ingest.ledger import create_catalog

FIRST = datetime.date(2012, 10, 5)
Forecasts = dict[int, str]  # the week's number, and who forecast it


class Shop:
    """What drops and champions do to the tables and files, with weeks numbered from 0."""

    def __init__(self, database: PostgresSettings, folder: Path) -> None:
        self.settings, self.folder = database, folder

    def drop(self, last: int) -> None:
        """Sales up to the week ``last`` are accepted."""
        create_catalog(self.settings)
        with psycopg.connect(self.settings.url) as connection:
            weeks = [week_of(number) for number in range(last + 1)]
            connection.execute("INSERT INTO sold_weeks SELECT unnest(%s::date[]) ON CONFLICT DO NOTHING", [weeks])

    def forecast(self, week: int, champion: str) -> None:
        """The coming week is forecast."""
        publish_forecasts("weekly_forecasts", rows(week, champion), self.settings)
        write_forecasts(week_of(week), self.settings, self.folder)

    def horizon(self, origin: int, champion: str) -> None:
        """The two weeks after ``origin`` are forecast."""
        ahead = pa.concat_tables([rows(origin + 1, champion), rows(origin + 2, champion)])
        columns = {"origin": pa.array([week_of(origin)] * 4), "weeks_ahead": pa.array([1, 1, 2, 2], pa.int32())}
        table = ahead.drop_columns(["p10", "p50", "p90"])
        for name, column in columns.items():
            table = table.append_column(name, column)
        publish_forecasts("horizon_forecasts", table, self.settings)

    def shown(self, table: str = "weekly_forecasts", by: str = "week") -> Forecasts:
        with psycopg.connect(self.settings.url) as connection:
            found = connection.execute(f"SELECT DISTINCT {by}, model_version FROM {table} ORDER BY 1")
            return {(day - FIRST).days // 7: champion for day, champion in found.fetchall()}

    def state(self) -> list[tuple[object, ...]]:
        """Every row that is shown, with the transaction that wrote it."""
        with psycopg.connect(self.settings.url) as connection:
            return connection.execute("SELECT xmin::text, * FROM weekly_forecasts ORDER BY 2, 3, 4").fetchall()

    @property
    def files(self) -> Forecasts:
        found = {path.stem: set(pq.read_table(path)["model_version"].to_pylist()) for path in self.folder.iterdir()}
        return {
            (datetime.date.fromisoformat(stem) - FIRST).days // 7: "".join(champions)
            for stem, champions in found.items()
        }


def week_of(number: int) -> datetime.date:
    return FIRST + datetime.timedelta(weeks=number)


def rows(week: int, champion: str) -> pa.Table:
    """Two series; who forecast them is their version and their numbers."""
    number = float(sum(champion.encode()))
    return pa.table(
        {
            "store": [1, 2],
            "dept": [7, 7],
            "week": pa.array([week_of(week)] * 2),
            **{name: [number, number + 1] for name in ("forecast", "p10", "p50", "p90")},
            "model_version": [champion] * 2,
        }
    )


@pytest.fixture
def shop(database: PostgresSettings, tmp_path: Path) -> Shop:
    return Shop(database, tmp_path / "forecasts")


def test_an_old_drop_shows_its_coming_week_and_the_right_one_brings_back_what_was_forecast_in_time(shop: Shop) -> None:
    for last, champion in enumerate("abcd"):
        shop.drop(last)
        shop.forecast(last + 1, champion)
    assert shop.shown() == {1: "a", 2: "b", 3: "c", 4: "d"}

    shop.drop(1)
    shop.forecast(2, "knows")
    assert shop.shown() == shop.files == {1: "a", 2: "knows"}

    shop.drop(4)
    shop.forecast(5, "e")
    assert shop.shown() == shop.files == {1: "a", 2: "b", 3: "c", 4: "d", 5: "e"}
    assert shop.shown("weekly_forecasts_history") == shop.shown()


def test_the_coming_week_is_forecast_anew_by_another_champion_and_the_same_again_changes_no_row(shop: Shop) -> None:
    shop.drop(0)
    shop.forecast(1, "a")
    shop.forecast(1, "b")
    assert shop.shown() == shop.shown("weekly_forecasts_history") == shop.files == {1: "b"}

    before = shop.state()
    shop.drop(0)
    shop.forecast(1, "b")

    assert shop.state() == before


def test_a_series_that_is_not_forecast_any_more_goes_from_the_coming_week(shop: Shop) -> None:
    shop.forecast(1, "a")
    publish_forecasts("weekly_forecasts", rows(1, "a").slice(1), shop.settings)
    for table in ("weekly_forecasts", "weekly_forecasts_history"):
        with psycopg.connect(shop.settings.url) as connection:
            assert connection.execute(f"SELECT store FROM {table}").fetchall() == [(2,)]


def test_a_week_that_was_sold_before_its_first_forecast_never_enters_the_history(shop: Shop) -> None:
    shop.drop(3)
    shop.forecast(4, "a")
    shop.drop(1)
    shop.forecast(2, "knows")
    assert shop.shown() == {2: "knows"}

    shop.drop(3)
    shop.forecast(4, "b")

    assert shop.shown() == shop.shown("weekly_forecasts_history") == {4: "b"}


def test_sales_far_ahead_by_mistake_do_not_keep_the_weeks_before_them_out_of_the_history(shop: Shop) -> None:
    with psycopg.connect(shop.settings.url) as connection:
        create_catalog(shop.settings)
        connection.execute("INSERT INTO sold_weeks VALUES (%s)", [week_of(50)])
    shop.forecast(51, "mistaken")
    shop.drop(0)
    shop.forecast(1, "a")
    assert shop.shown() == {1: "a"}

    shop.drop(1)
    shop.forecast(2, "b")

    assert shop.shown() == {1: "a", 2: "b"}


def test_several_weeks_ahead_the_newest_origin_is_that_of_the_drop_in_use_and_earlier_ones_come_back(
    shop: Shop,
) -> None:
    for last, champion in enumerate("abc"):
        shop.drop(last)
        shop.horizon(last, champion)
    shop.drop(1)
    shop.horizon(1, "knows")
    assert shop.shown("horizon_forecasts", "origin") == {0: "a", 1: "knows"}

    shop.drop(3)
    shop.horizon(3, "d")

    assert shop.shown("horizon_forecasts", "origin") == {0: "a", 1: "b", 2: "c", 3: "d"}


def test_a_history_begins_with_the_forecasts_that_an_earlier_version_has_left(shop: Shop) -> None:
    for last, champion in enumerate("ab"):
        shop.drop(last)
        shop.forecast(last + 1, champion)
    with psycopg.connect(shop.settings.url) as connection:
        connection.execute("DROP TABLE weekly_forecasts_history")

    shop.drop(2)
    shop.forecast(3, "c")

    assert shop.shown("weekly_forecasts_history") == {1: "a", 2: "b", 3: "c"}


def test_one_who_reads_the_forecasts_for_long_keeps_nobody_waiting(shop: Shop) -> None:
    shop.drop(0)
    shop.forecast(1, "a")
    with psycopg.connect(shop.settings.url) as reader, psycopg.connect(shop.settings.url) as watcher:
        reader.execute("SELECT * FROM weekly_forecasts").fetchall()
        asked = threading.Thread(target=create_forecast_tables, args=("weekly_forecasts", shop.settings), daemon=True)
        asked.start()
        asked.join(10)
        watcher.execute("SET statement_timeout = '5s'")
        assert watcher.execute("SELECT count(*) FROM weekly_forecasts").fetchone() == (2,)
        assert not asked.is_alive()


def test_whatever_drops_come_only_forecasts_made_in_time_are_kept_and_all_of_them(shop: Shop) -> None:
    rng = random.Random(1)
    sold: set[int] = set()
    in_time: Forecasts = {}
    for step in range(14):
        last, champion, is_forecast = rng.randint(0, 1 + step // 2), rng.choice("abc"), rng.random() < 0.8
        shop.drop(last)
        sold |= set(range(last + 1))
        if is_forecast:
            shop.forecast(last + 1, champion)
            if last + 1 not in sold:
                in_time[last + 1] = champion
            shown = {week: by for week, by in in_time.items() if week <= last} | {last + 1: champion}
            assert shop.shown() == shop.files == shown
            assert shop.shown("weekly_forecasts_history") == in_time
    assert len(in_time) > 3
