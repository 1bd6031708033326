"""A published table holds exactly its rows, is replaced as a whole, and is not touched where nothing changed."""

import datetime
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.database import PostgresSettings
from feature_repo.features import TIMESTAMP
from forecast_assets.content_hash import content_hash
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import FeatureTable, sales_features_table, store_features_table
from forecast_assets.ingest.ledger import record_accepted
from forecast_assets.ingest.publish import publish
from forecast_assets.sample_data import write_sample_data
from forecast_assets.sql import statement

Key = tuple[int, int, int]  # store, dept, week
Content = dict[Key, tuple[float | None, str | None]]

EPOCH = datetime.date(2010, 2, 5)
OLD: Content = {(1, 1, 0): (10.0, "A"), (1, 11, 0): (None, "B"), (11, 1, 0): (0.0, None), (11, 1, 1): (-3.5, "")}
NEW: Content = {(1, 1, 0): (10.0, "A"), (1, 11, 0): (5.0, "B"), (11, 1, 1): (-3.5, ""), (2, 2, 2): (1.0, "new")}


def table_of(content: Content, *, name: str = "sales_features") -> FeatureTable:
    keys = sorted(content)
    dates = [EPOCH + datetime.timedelta(weeks=week) for *_, week in keys]
    rows = pa.table(
        {
            "store": pa.array([store for store, _, _ in keys], pa.int64()),
            "dept": pa.array([dept for _, dept, _ in keys], pa.int64()),
            "date": pa.array(dates, pa.date32()),
            TIMESTAMP: pa.array(dates, pa.date32()).cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC")),
            "amount": pa.array([content[key][0] for key in keys], pa.float64()),
            "label": pa.array([content[key][1] for key in keys], pa.string()),
        }
    )
    return FeatureTable(name, ("store", "dept", "date"), rows)


def read(connection: psycopg.Connection[Any], name: str = "sales_features") -> Content:
    rows = connection.execute(f"SELECT store, dept, (date - %s) / 7, amount, label FROM {name}", [EPOCH]).fetchall()
    content = {(store, dept, week): (amount, label) for store, dept, week, amount, label in rows}
    assert len(content) == len(rows)
    return content


def written_by(connection: psycopg.Connection[Any], name: str = "sales_features") -> dict[Key, str]:
    """The transaction that wrote each row."""
    rows = connection.execute(f"SELECT store, dept, (date - %s) / 7, xmin::text FROM {name}", [EPOCH]).fetchall()
    return {(store, dept, week): xmin for store, dept, week, xmin in rows}


def version_of(connection: psycopg.Connection[Any], name: str = "sales_features") -> tuple[Any, ...] | None:
    query = "SELECT data_version, row_count, run_id FROM feature_table_versions WHERE table_name = %s"
    return connection.execute(query, [name]).fetchone()


keys = st.tuples(st.sampled_from([1, 11]), st.sampled_from([1, 11]), st.integers(0, 2))
cells = st.tuples(st.none() | st.sampled_from([0.0, 1.5, -2.25]), st.none() | st.sampled_from(["", "A", "é'\\"]))
contents = st.dictionaries(keys, cells, min_size=1, max_size=6)


@settings(max_examples=20)
@given(contents, contents)
def test_any_content_replaces_any_other_and_only_differing_rows_are_written(
    module_database: PostgresSettings, old: Content, new: Content
) -> None:
    with psycopg.connect(module_database.url, autocommit=True) as connection:
        publish(table_of(old, name="replaced"), module_database, run_id="old")
        before = written_by(connection, "replaced")
        publication = publish(table_of(new, name="replaced"), module_database, run_id="new")
        assert read(connection, "replaced") == new
        untouched = {key for key, row in new.items() if old.get(key, "absent") == row}
        after = written_by(connection, "replaced")
        assert {key for key in after if before.get(key) == after[key]} == untouched
        assert publication.upserted == len(new) - len(untouched)
        assert publication.deleted == len(old.keys() - new.keys())
        assert publication.changed is (old != new)
        assert publication.data_version == content_hash(table_of(new).rows)
        run = "new" if publication.changed else version_of(connection, "replaced")[2]  # type: ignore[index]
        assert version_of(connection, "replaced") == (publication.data_version, len(new), run)


def test_the_same_content_again_writes_nothing(database: PostgresSettings) -> None:
    first = publish(table_of(OLD), database, run_id="first")
    with psycopg.connect(database.url, autocommit=True) as connection:
        before = (written_by(connection), version_of(connection))
        again = publish(table_of(OLD), database, run_id="again")
        assert (written_by(connection), version_of(connection)) == before
    assert (first.upserted, first.changed) == (len(OLD), True)
    assert again == replace(first, upserted=0)
    assert not again.changed


def test_after_every_publication_the_planner_knows_the_weeks_there_are(database: PostgresSettings) -> None:
    publish(table_of(OLD), database, run_id="old")
    publish(table_of(NEW), database, run_id="new")
    with psycopg.connect(database.url) as connection:
        (bounds,) = connection.execute(
            "SELECT histogram_bounds::text FROM pg_stats WHERE tablename = 'sales_features' AND attname = 'date'"
        ).fetchall()
    assert bounds == ("{2010-02-12,2010-02-19}",)


def test_a_reader_keeps_its_rows_and_others_see_the_new_ones_only_when_all_are_there(
    database: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(table_of(OLD), database, run_id="old")
    seen_during: list[Content] = []
    with psycopg.connect(database.url) as reader, psycopg.connect(database.url, autocommit=True) as other:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert read(reader) == OLD
        # The version is recorded last: all rows have been written by then, and nothing is committed.
        _before_the_version_is_recorded(monkeypatch, lambda: seen_during.extend([read(reader), read(other)]))
        publish(table_of(NEW), database, run_id="new")
        assert seen_during == [OLD, OLD]
        assert (read(reader), read(other)) == (OLD, NEW)


def test_an_error_in_the_middle_leaves_the_old_rows_and_the_old_version(
    database: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("in the middle")

    version = publish(table_of(OLD), database, run_id="old").data_version
    with monkeypatch.context() as patch:
        _before_the_version_is_recorded(patch, fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            publish(table_of(NEW), database, run_id="new")
    with psycopg.connect(database.url, autocommit=True) as connection:
        assert (read(connection), version_of(connection)) == (OLD, (version, len(OLD), "old"))
        publish(table_of(NEW), database, run_id="new")  # nothing is locked or half-made
        assert read(connection) == NEW


def _before_the_version_is_recorded(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    def spied(name: str) -> str:
        if name == "record_table_version":
            action()
        return statement(name)

    monkeypatch.setattr("forecast_assets.ingest.publish.statement", spied)


def test_publications_at_the_same_time_end_with_one_of_them_whole(database: PostgresSettings) -> None:
    contents = {content_hash(table_of(content).rows): content for content in (OLD, NEW)}
    with psycopg.connect(database.url, autocommit=True) as connection, ThreadPoolExecutor(4) as threads:
        for _ in range(3):  # the first round also creates the table
            runs = [threads.submit(publish, table_of(content), database, run_id="") for content in [OLD, NEW] * 2]
            for run in runs:
                run.result()
            version = version_of(connection)
            assert version is not None
            assert read(connection) == contents[version[0]]


def test_a_publication_waits_for_the_one_before_it_and_then_replaces_its_rows(
    database: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    last: Content = {(7, 7, 7): (7.0, "last")}
    second: list[Future[object]] = []
    with psycopg.connect(database.url, autocommit=True) as observer, ThreadPoolExecutor(1) as thread:

        def start_the_second() -> None:
            if second:
                return  # it has come here itself
            second.append(thread.submit(publish, table_of(last), database, run_id="second"))
            for _ in range(500):
                if observer.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone():
                    return
                time.sleep(0.01)
            raise AssertionError("the second publication did not wait")

        publish(table_of(OLD), database, run_id="old")
        _before_the_version_is_recorded(monkeypatch, start_the_second)
        publish(table_of(NEW), database, run_id="first")
        second[0].result()
        assert read(observer) == last
        assert version_of(observer) == (content_hash(table_of(last).rows), 1, "second")


def _changed_columns(rows: pa.Table) -> dict[str, pa.Table]:
    number = rows.column_names.index("amount")
    return {
        "one more": rows.append_column("extra", pa.array(range(rows.num_rows), pa.int32())),
        "one less": rows.drop_columns(["label"]),
        "other order": rows.select([*rows.column_names[:-2], "label", "amount"]),
        "other type": rows.set_column(number, "amount", rows["amount"].cast(pa.int32(), safe=False)),
    }


@pytest.mark.parametrize("change", ["one more", "one less", "other order", "other type"])
def test_other_columns_make_the_table_anew_with_its_keys(database: PostgresSettings, change: str) -> None:
    publish(table_of(OLD), database, run_id="old")
    changed = replace(table_of(NEW), rows=_changed_columns(table_of(NEW).rows)[change])
    publication = publish(changed, database, run_id="new")
    assert (publication.upserted, publication.deleted) == (len(NEW), 0)
    with psycopg.connect(database.url) as connection:
        found = connection.execute("SELECT * FROM sales_features ORDER BY store, dept, date")
        assert [column.name for column in found.description or []] == changed.rows.column_names
        assert found.fetchall() == [tuple(row.values()) for row in changed.rows.to_pylist()]
        with pytest.raises(psycopg.errors.UniqueViolation, match="pkey"):
            connection.execute("INSERT INTO sales_features SELECT * FROM sales_features LIMIT 1")


def test_a_table_that_was_dropped_by_hand_comes_back(database: PostgresSettings) -> None:
    publish(table_of(OLD), database, run_id="old")
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("DROP TABLE sales_features")
        assert publish(table_of(OLD), database, run_id="again").upserted == len(OLD)
        assert read(connection) == OLD


def test_the_ledger_has_each_content_once(landing: Path, database: PostgresSettings) -> None:
    assert record_accepted(read_drop(landing), database, run_id="first") == 3
    assert record_accepted(read_drop(landing), database, run_id="again") == 0
    (landing / "stores.csv").write_text("Store,Type,Size\n1,A,1\n2,B,2\n3,C,3\n")
    assert record_accepted(read_drop(landing), database, run_id="other stores") == 1
    with psycopg.connect(database.url) as connection:
        found = connection.execute(
            "SELECT file, row_count, first_week, last_week, run_id FROM ingest_ledger ORDER BY file, id"
        ).fetchall()
    assert found == [
        ("features.csv", 546, EPOCH, datetime.date(2013, 7, 26), "first"),
        ("stores.csv", 3, None, None, "first"),
        ("stores.csv", 3, None, None, "other stores"),
        ("train.csv", 4216, EPOCH, datetime.date(2012, 10, 26), "first"),
    ]


def test_one_more_week_ends_bit_identical_to_a_load_from_scratch(
    database: PostgresSettings, module_database: PostgresSettings, tmp_path: Path
) -> None:
    write_sample_data(tmp_path / "earlier", size=0.01, through=datetime.date(2012, 10, 19))
    write_sample_data(tmp_path / "full", size=0.01)
    for landing in ("earlier", "full"):
        drop = read_drop(tmp_path / landing)
        for table in (sales_features_table(drop), store_features_table(drop)):
            publication = publish(table, database, run_id="")
            if landing == "full":
                assert publication.upserted < publication.rows / 10
                publish(table, module_database, run_id="")

    for name in ("sales_features", "store_features"):
        query = f"SELECT * FROM {name} ORDER BY store, date, {name}::text"
        with psycopg.connect(database.url) as grown, psycopg.connect(module_database.url) as fresh:
            assert grown.execute(query).fetchall() == fresh.execute(query).fetchall()
