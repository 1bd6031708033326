"""Every plan of the point-in-time join gives what a slow search in Python gives."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.database import PostgresSettings
from feature_repo.point_in_time import Plan, ViewQuery, events_query, point_in_time_query

DAY_0 = datetime(2010, 2, 5, tzinfo=UTC)
VIEW = ViewQuery(
    source="seen",
    timestamp="At",
    created="made",
    keys=(("Store", "store_no"), ("dept", "dept")),
    features=(("amount", "amount"), ("note", "the note")),
)
TABLES = """
    CREATE TABLE seen (store_no int, dept text, "At" timestamptz, made timestamptz, amount float8, note json);
    CREATE INDEX ON seen (store_no, dept, "At");
    CREATE TABLE once (LIKE seen, UNIQUE (dept, store_no, "At"));
    CREATE TABLE entities (n int, "Store" bigint, dept text, "When" timestamptz);
"""

moments = st.integers(-2, 6).map(lambda quarter: DAY_0 + timedelta(hours=6 * quarter))
missing = st.none()
feature_rows = st.lists(
    st.tuples(
        *(missing | st.integers(1, 2), missing | st.sampled_from(["1", "11"]), missing | moments, missing | moments),
        *(missing | st.sampled_from([0.0, -1.5, float("nan")]), missing | st.sampled_from(['{"a": 1}', "[]"])),
    ),
    max_size=12,
)
entity_rows = st.lists(
    st.tuples(missing | st.integers(1, 3), missing | st.sampled_from(["1", "11"]), missing | moments), max_size=8
)
ttls = missing | st.sampled_from([timedelta(hours=6), timedelta(hours=6, milliseconds=-1), timedelta(days=1)])


@pytest.fixture(scope="module")
def connection(module_database: PostgresSettings) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(module_database.url, autocommit=True) as connection:
        connection.execute(TABLES)
        yield connection


@contextmanager
def filled(connection: psycopg.Connection[Any], table: str, rows: list[Any], entities: list[Any]) -> Iterator[None]:
    with connection.transaction(force_rollback=True), connection.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {table} VALUES (%s, %s, %s, %s, %s, %s)", rows)
        cursor.executemany(
            "INSERT INTO entities VALUES (%s, %s, %s, %s)", [(n, *row) for n, row in enumerate(entities)]
        )
        yield


def joined(connection: psycopg.Connection[Any], *views: ViewQuery) -> list[tuple[str, ...]]:
    columns = ["n", "Store", "dept", "When"]
    query = point_in_time_query("(SELECT * FROM entities ORDER BY n)", columns, "When", views)
    # As text, in which NaN equals itself.
    return [tuple(map(str, row)) for row in connection.execute(query.encode())]


def searched(rows: list[Any], entities: list[Any], view: ViewQuery) -> list[Any]:
    """Each entity row, and what it may get, by looking at every feature row for it; of full ties any will do."""
    result = []
    for n, (store, dept, when) in enumerate(entities):
        candidates = [
            row
            for row in rows
            if None not in (store, dept, when, row[2])
            and (row[0], row[1]) == (store, dept)
            and row[2] <= when
            and (view.ttl is None or row[2] >= when - view.ttl)
            and (not view.only_created or (row[3] is not None and row[3] <= when))
        ]
        never = DAY_0 - timedelta(days=1000)
        newest = max(((row[2], row[3] or never) for row in candidates), default=None)
        best = {
            (str(amount), str(note and json.loads(note)))
            for _, _, time, made, amount, note in candidates
            if (time, made or never) == newest
        }
        result.append(((n, store, dept, when), best or {("None", "None")}))
    return result


def agrees(found: list[tuple[str, ...]], expected: list[Any]) -> bool:
    return len(found) == len(expected) and all(
        row[:4] == tuple(map(str, kept)) and row[4:] in best for row, (kept, best) in zip(found, expected, strict=True)
    )


@settings(max_examples=60)
@given(feature_rows, entity_rows, ttls, st.booleans(), st.booleans())
def test_lookup_and_merge_find_the_same_rows_as_a_search_whatever_ties_and_copies_there_are(
    connection: psycopg.Connection[Any],
    rows: list[Any],
    entities: list[Any],
    ttl: timedelta | None,
    only_created: bool,
    keyless: bool,
) -> None:
    view = replace(VIEW, ttl=ttl, only_created=only_created)
    if keyless:
        view = replace(view, keys=())
        one_key = searched([(1, "1", *row[2:]) for row in rows], [(1, "1", row[2]) for row in entities], view)
        expected = [((n, *row), best) for n, (row, (_, best)) in enumerate(zip(entities, one_key, strict=True))]
    else:
        expected = searched(rows, entities, view)
    with filled(connection, "seen", rows, entities):
        looked_up, merged = (joined(connection, replace(view, plan=plan)) for plan in (Plan.LOOKUP, Plan.MERGE))
    assert looked_up == merged
    assert agrees(merged, expected)


@settings(max_examples=40)
@given(feature_rows, entity_rows, ttls)
def test_where_no_two_rows_share_keys_and_time_all_three_plans_agree(
    connection: psycopg.Connection[Any], rows: list[Any], entities: list[Any], ttl: timedelta | None
) -> None:
    unique = list({row[:3]: row for row in rows}.values())
    view = replace(VIEW, source="once", ttl=ttl)
    with filled(connection, "once", unique, entities):
        exact, looked_up, merged = (
            joined(connection, replace(view, plan=plan)) for plan in (Plan.EXACT, Plan.LOOKUP, Plan.MERGE)
        )
        assert exact == looked_up == merged
        both = joined(connection, replace(view, plan=Plan.MERGE), replace(view, plan=Plan.EXACT))
    assert agrees(exact, searched(unique, entities, view))
    assert [row[4:6] for row in both] == [row[6:] for row in both]


def test_events_of_views_with_different_keys_need_one_that_has_them_all() -> None:
    by_store, by_dept = replace(VIEW, keys=VIEW.keys[:1]), replace(VIEW, keys=VIEW.keys[1:])
    with pytest.raises(
        ValueError, match="no feature view has all of the join keys Store, dept: pass entity_df instead"
    ):
        events_query([by_store, by_dept], DAY_0, DAY_0, "event_timestamp")
