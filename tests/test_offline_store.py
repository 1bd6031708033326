"""Retrieval gives each entity row, in order, the newest features that are not newer than itself."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from feast import FeatureStore, FeatureView, Field
from feast.errors import FeastEntityDFMissingColumnsError
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Float64, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import make_url

from feature_repo.database import PostgresSettings
from feature_repo.definitions import ENTITIES, FEATURE_SERVICES, FEATURE_VIEWS
from feature_repo.features import (
    ENTITY_KEYS,
    FRAME_FEATURES,
    INFERENCE_SERVICE,
    LABEL,
    TIMESTAMP,
    TRAINING_SERVICE,
    names,
)
from feature_repo.store import open_store
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, sales_windows_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.sql import statement

DAY_0 = datetime(2010, 2, 5, tzinfo=UTC)
TTL = timedelta(days=14)
AWKWARD = "p$a{s}s:/@'% ü"
OBSERVATIONS = """
    CREATE TABLE observations (
        store_no bigint, dept bigint, seen timestamptz, created timestamptz, raw_value float8, note text
    );
    CREATE TABLE entities (n bigint, store bigint, dept bigint, event_timestamp timestamptz, "Remark, if any" text);
"""


@pytest.fixture(scope="module")
def feature_store(module_database: PostgresSettings, small_drop: Path) -> Iterator[FeatureStore]:
    """The project's own features of the small drop, and two odd views of one table that differ in their ttl."""
    with psycopg.connect(module_database.url) as connection:
        connection.execute(OBSERVATIONS)
    drop = read_drop(small_drop)
    for table in (sales_features_table(drop), sales_windows_table(drop), store_features_table(drop)):
        publish(table, module_database, run_id="")
    source = PostgreSQLSource(
        name="observations",
        table="observations",
        timestamp_field="seen",
        created_timestamp_column="created",
        field_mapping={"store_no": "store", "raw_value": "amount"},
    )
    views = [
        FeatureView(
            name=name,
            entities=ENTITIES,
            ttl=ttl,
            source=source,
            schema=[
                *(Field(name=key, dtype=Int64) for key in ENTITY_KEYS),
                Field(name="amount", dtype=Float64),
                Field(name="note", dtype=String),
            ],
        )
        for name, ttl in (("always", timedelta(0)), ("fortnight", TTL))
    ]
    # The server trusts any password, but it has to get there.
    with open_store(replace(module_database, password=AWKWARD)) as store:
        store.apply([*ENTITIES, *FEATURE_VIEWS, *FEATURE_SERVICES, *views])
        yield store


def fill(database: PostgresSettings, table: str, rows: list[tuple[Any, ...]]) -> None:
    with psycopg.connect(database.url) as connection, connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {table}")
        if rows:
            cursor.executemany(f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(rows[0]))})", rows)


def entity_frame(rows: list[tuple[Any, ...]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["n", "store", "dept", TIMESTAMP, "Remark, if any"])
    frame.index = pd.Index([f"row {n}" for n in range(len(rows))], name="an index is not a column")
    return frame


def newest_per_key(features: list[tuple[Any, ...]], entities: pd.DataFrame, ttl: timedelta | None) -> pd.DataFrame:
    """Amount and note of each entity row by pandas, key by key; ``n`` is the index."""
    known = pd.DataFrame(features, columns=["store", "dept", "seen", "created", "amount", "note"])
    known["seen"] = pd.to_datetime(known["seen"], utc=True).astype("datetime64[us, UTC]")
    known = known.sort_values(["seen", "created"], na_position="first")
    joined = [
        pd.merge_asof(
            rows.astype({TIMESTAMP: "datetime64[us, UTC]"}).sort_values(TIMESTAMP),
            known.loc[(known["store"] == key[0]) & (known["dept"] == key[1]), ["seen", "amount", "note"]],
            left_on=TIMESTAMP,
            right_on="seen",
            tolerance=None if ttl is None else pd.Timedelta(ttl),
        )
        for key, rows in entities.reset_index(drop=True).groupby(["store", "dept"])
    ]
    return pd.concat(joined).set_index("n").loc[entities["n"], ["amount", "note"]]


def values(frame: pd.DataFrame, columns: list[str]) -> list[list[object]]:
    return [[None if pd.isna(value) else value for value in frame[column]] for column in columns]


numbers = st.sampled_from([1, 11])
# Few of them, so that equal times and ages of exactly the ttl are common.
days = st.sampled_from([0, 1, 7, 14, 15, 21, 28]).map(lambda day: DAY_0 + timedelta(days=day))
observations = st.lists(
    st.tuples(
        *(numbers, numbers, days, st.none() | days),
        *(st.none() | st.floats(-1e6, 1e6), st.none() | st.sampled_from(["", "a", "b"])),
    ),
    max_size=15,
    unique_by=lambda row: row[:4],  # two rows created at once would have no order
)
moments = st.builds(lambda day, second: day + timedelta(seconds=second), days, st.sampled_from([-1, 0, 1]))
entity_rows = st.lists(
    st.tuples(numbers, numbers, moments, st.none() | st.text("ab", max_size=2)), min_size=1, max_size=12
)


@settings(max_examples=20)
@given(observations, entity_rows)
def test_every_entity_row_gets_the_newest_row_of_its_key_within_the_ttl(
    feature_store: FeatureStore,
    module_database: PostgresSettings,
    features: list[tuple[Any, ...]],
    rows: list[tuple[Any, ...]],
) -> None:
    fill(module_database, "observations", features)
    # Every row twice: duplicates are rows of their own.
    entities = entity_frame([(n, *row) for n, row in enumerate([*rows, *reversed(rows)])])
    references = ["always:amount", "always:note", "fortnight:note", "fortnight:amount"]
    found = feature_store.get_historical_features(entities, references, full_feature_names=True).to_df()

    assert set(found) == {*entities, *(reference.replace(":", "__") for reference in references)}
    kept = ["n", "store", "dept", TIMESTAMP, "Remark, if any"]
    assert values(found, kept) == values(entities, kept)
    for view, ttl in (("always", None), ("fortnight", TTL)):
        expected = newest_per_key(features, entities, ttl)
        assert values(found, [f"{view}__amount", f"{view}__note"]) == values(expected, ["amount", "note"])


@settings(max_examples=8)
@given(observations, entity_rows)
def test_entity_rows_in_sql_give_what_the_same_rows_in_a_frame_give(
    feature_store: FeatureStore,
    module_database: PostgresSettings,
    features: list[tuple[Any, ...]],
    rows: list[tuple[Any, ...]],
) -> None:
    fill(module_database, "observations", features)
    numbered = [(n, *row) for n, row in enumerate(rows)]
    fill(module_database, "entities", numbered)
    query = "SELECT * FROM entities WHERE n % 2 = 0 ORDER BY n DESC"
    chosen = entity_frame([row for row in reversed(numbered) if row[0] % 2 == 0])
    by_query, by_frame = (
        feature_store.get_historical_features(entity_df, ["fortnight:amount", "fortnight:note"]).to_arrow()
        for entity_df in (query, chosen)
    )
    assert by_query.column_names == ["n", "store", "dept", TIMESTAMP, "Remark, if any", "amount", "note"]
    assert by_query.to_pylist() == by_frame.to_pylist()


def test_of_rows_with_the_same_time_the_one_created_last_counts_even_if_its_value_is_missing(
    feature_store: FeatureStore, module_database: PostgresSettings
) -> None:
    later = DAY_0 + timedelta(days=1)
    fill(module_database, "observations", [(1, 1, DAY_0, later, None, "correction"), (1, 1, DAY_0, None, 1.0, "first")])
    found = feature_store.get_historical_features(
        entity_frame([(0, 1, 1, later, None)]), ["always:amount", "always:note"]
    ).to_df()
    assert values(found, ["amount", "note"]) == [[None], ["correction"]]


@pytest.mark.parametrize("zone", ["UTC", "America/Chicago", None])
def test_times_are_compared_as_moments_and_those_without_a_zone_are_utc(
    feature_store: FeatureStore, module_database: PostgresSettings, zone: str | None
) -> None:
    fill(module_database, "observations", [(1, 1, DAY_0, None, 5.0, None)])
    entities = entity_frame([(n, 1, 1, DAY_0 + timedelta(seconds=n - 1), None) for n in range(2)])
    entities[TIMESTAMP] = entities[TIMESTAMP].dt.tz_convert(zone)
    found = feature_store.get_historical_features(entities, ["always:amount"]).to_df()
    assert values(found, ["amount"]) == [[None, 5.0]]


def test_the_password_reaches_the_stores_as_it_is(feature_store: FeatureStore) -> None:
    config = feature_store.config
    assert (config.offline_store.password, config.online_store.password) == (AWKWARD, AWKWARD)
    assert make_url(config.registry.path).password == AWKWARD


def test_entity_rows_without_a_join_key_are_refused_by_its_name(feature_store: FeatureStore) -> None:
    with pytest.raises(FeastEntityDFMissingColumnsError, match="dept"):
        feature_store.get_historical_features(entity_frame([]).drop(columns="dept"), ["always:amount"]).to_df()


def test_what_is_trained_on_is_what_is_served_and_the_label(feature_store: FeatureStore) -> None:
    everything = names(FRAME_FEATURES)
    by_service = {
        service: feature_store.get_historical_features(
            statement("labelled_rows"), feature_store.get_feature_service(service)
        ).to_arrow()
        for service in (TRAINING_SERVICE, INFERENCE_SERVICE)
    }
    trained, served = by_service[TRAINING_SERVICE], by_service[INFERENCE_SERVICE]
    assert trained.column_names == [*ENTITY_KEYS, TIMESTAMP, *everything]
    assert served.column_names == [*ENTITY_KEYS, TIMESTAMP, *(name for name in everything if name != LABEL)]
    assert served.equals(trained.drop_columns([LABEL]))
    assert (trained.num_rows, trained[LABEL].null_count) == (4216, 0)
