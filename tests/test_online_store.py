"""What is written is what is read, newest first, through changed schemas."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pandas as pd
import psycopg
import pytest
from feast import FeatureService, FeatureStore, Field, OnDemandFeatureView
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, FeastType, Float64, Int64, String
from online_example import (
    EVERY_TYPE,
    FULL,
    NOON,
    PER_STORE,
    SERVICE,
    TYPES,
    example_store,
    first_key,
    read,
    sizes,
    store_entity,
    view,
    write,
    write_rows,
)

from feature_repo.database import PostgresSettings
from feature_repo.online_postgres import ChangedDefinitionError
from feature_repo.online_reader import OnlineReader
from feature_repo.store import open_store

HOUR = timedelta(hours=1)

pytestmark = pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")


@pytest.fixture
def store(database: PostgresSettings) -> Iterator[FeatureStore]:
    with example_store(database) as store:
        yield store


def test_every_type_comes_back_as_it_was_and_nothing_as_none(store: FeatureStore) -> None:
    write(store, EVERY_TYPE, {(1, "full"): FULL, (1, "empty"): {}})

    features = [f"every_type:{name}" for name in TYPES]
    found = read(store, features, [{"store": 1, "code": code} for code in ("empty", "full", "empty")])

    for name, value in FULL.items():
        assert found[name] == [None, value, None], name
    assert str(found["window"][1][1]) == "-0.0"


def test_an_unknown_key_gives_none_and_not_found(store: FeatureStore) -> None:
    write(store, PER_STORE, {(1,): {"size": 7}})

    response = store.get_online_features(features=["per_store:size"], entity_rows=[{"store": 2}, {"store": 1}])

    assert response.to_dict() == {"store": [2, 1], "size": [None, 7]}
    statuses = response.proto.results[-1].statuses
    assert list(statuses) == [FieldStatus.NOT_FOUND, FieldStatus.PRESENT]


@pytest.mark.parametrize(
    ("event", "created", "stored"),
    [
        (NOON - HOUR, None, 1),
        (NOON - HOUR, NOON + HOUR, 1),
        (NOON, None, 1),
        (NOON, NOON - HOUR, 1),
        (NOON, NOON, 2),
        (NOON, NOON + HOUR, 2),
        (NOON + HOUR, None, 2),
    ],
)
def test_only_what_is_not_older_replaces(
    store: FeatureStore, event: datetime, created: datetime | None, stored: int
) -> None:
    write(store, PER_STORE, {(1,): {"size": 1}}, created=NOON)

    write(store, PER_STORE, {(1,): {"size": 2}}, event=event, created=created)

    assert sizes(store, 1) == [stored]


def test_a_feature_that_is_not_written_keeps_its_value(store: FeatureStore) -> None:
    write(store, EVERY_TYPE, {(1, "a"): FULL, (1, "b"): FULL})

    write(store, EVERY_TYPE, {(1, "a"): {"small": 7, "word": None}, (2, "new"): {"small": 8, "word": "x"}}, partly=True)

    found = read(store, [f"every_type:{name}" for name in TYPES], [{"store": 1, "code": code} for code in "ab"])
    for name, value in FULL.items():
        assert found[name] == [{"small": 7, "word": None}.get(name, value), value], name
    assert read(store, ["every_type:small", "every_type:large"], [{"store": 2, "code": "new"}])["large"] == [None]


def test_an_older_write_of_some_features_changes_none(store: FeatureStore) -> None:
    write(store, EVERY_TYPE, {(1, "a"): {"small": 1, "large": 1}})

    write(store, EVERY_TYPE, {(1, "a"): {"small": 2}}, event=NOON - HOUR, partly=True)

    assert read(store, ["every_type:small"], [{"store": 1, "code": "a"}])["small"] == [1]


@hypothesis.settings(max_examples=12, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    st.lists(
        st.tuples(
            st.integers(1, 2),
            st.integers(0, 3),
            st.dictionaries(st.sampled_from(["small", "large"]), st.integers(0, 99) | st.none()),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_one_batch_ends_as_its_rows_written_one_after_the_other_from_the_oldest(
    store: FeatureStore, database: PostgresSettings, written: list[tuple[int, int, dict[str, int | None]]]
) -> None:
    rows = [((key, "a"), values, NOON + hour * HOUR, None) for key, hour, values in written]
    one_by_one = [[row] for row in sorted(rows, key=lambda row: row[2])]
    results = []
    for parts in ([rows], one_by_one):
        with psycopg.connect(database.url) as connection:
            connection.execute("TRUNCATE feast_online.demand_forecasting_every_type")
        for part in parts:
            write_rows(store, EVERY_TYPE, part, partly=True)
        response = store.get_online_features(
            ["every_type:small", "every_type:large"], [{"store": key, "code": "a"} for key in (1, 2)]
        )
        results.append(response.to_dict(include_event_timestamps=True))

    assert results[0] == results[1]


def test_times_without_a_zone_are_utc(store: FeatureStore) -> None:
    write(store, PER_STORE, {(1,): {"size": 1}}, event=NOON.replace(tzinfo=None))

    response = store.get_online_features(features=["per_store:size"], entity_rows=[{"store": 1}])

    assert response.to_dict(include_event_timestamps=True)["size__ts"] == [int(NOON.timestamp())]


def test_several_views_are_one_statement(store: FeatureStore) -> None:
    write(store, EVERY_TYPE, {(1, "a"): FULL})
    write(store, PER_STORE, {(1,): {"size": 5}, (2,): {"size": 6}})
    rows = [{"store": 2, "code": "a"}, {"store": 1, "code": "a"}]
    online_store: Any = store._get_provider().online_store
    reads: list[int] = []
    original = online_store.read_rows

    def counted(*arguments: Any) -> Any:
        reads.append(1)
        return original(*arguments)

    online_store.read_rows = counted

    found = read(store, SERVICE, rows)

    assert reads == [1]
    assert (found["size"], found["small"]) == ([6, 5], [None, FULL["small"]])


def test_asynchronous_reads_and_single_reads_give_the_same(store: FeatureStore) -> None:
    write(store, PER_STORE, {(1,): {"size": 5}})

    response = asyncio.run(store.get_online_features_async(features=["per_store:size"], entity_rows=[{"store": 1}]))

    assert response.to_dict()["size"] == [5]
    applied = store.get_feature_view("per_store")
    assert store._get_provider().online_read(store.config, applied, []) == []


def test_stored_on_demand_features_are_read_like_others(store: FeatureStore) -> None:
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["size"] * 2.0})

    on_demand: OnDemandFeatureView = on_demand_feature_view(
        entities=[store_entity],
        sources=[PER_STORE],
        schema=[Field(name="twice", dtype=Float64)],
        mode="pandas",
        write_to_online_store=True,
    )(doubled)
    store.apply([on_demand])

    store.write_to_online_store("doubled", df=pd.DataFrame({"store": [1, 2], "size": [2, 4], "twice": [4.0, 8.0]}))

    assert read(store, ["doubled:twice"], [{"store": 2}, {"store": 3}])["twice"] == [8.0, None]


def test_values_survive_new_and_reordered_features_and_go_with_dropped_ones(store: FeatureStore) -> None:
    write(store, PER_STORE, {(1,): {"size": 5}})

    store.apply([view("per_store", {"name": String, "size": Int64, "area": Float64}, [store_entity])])
    found = read(store, ["per_store:name", "per_store:size", "per_store:area"], [{"store": 1}])
    assert (found["name"], found["size"], found["area"]) == ([None], [5], [None])

    store.apply([view("per_store", {"size": Float64}, [store_entity])])
    store.refresh_registry()
    assert sizes(store, 1) == [None]
    write(store, PER_STORE, {(1,): {"size": 5.5}})
    assert sizes(store, 1) == [5.5]


@pytest.mark.parametrize("old", [Float64, Array(Int64)], ids=str)
def test_who_still_knows_a_feature_by_another_type_is_told_so(
    store: FeatureStore, database: PostgresSettings, old: FeastType
) -> None:
    per_store = view("per_store", {"size": old}, [store_entity])
    store.apply([per_store, FeatureService(name="sizes", features=[per_store])])
    store.refresh_registry()
    applied = store.get_feature_view("per_store")
    reader = OnlineReader(store, "sizes")
    online_store: Any = store._get_provider().online_store
    written = (first_key(applied), {"size": Value()}, NOON, None)
    with open_store(database) as other:
        other.apply([view("per_store", {"size": Bool}, [store_entity])])
        write(other, view("per_store", {"size": Bool}, [store_entity]), {(1,): {"size": True}})

    for use in (
        lambda: sizes(store, 1),
        lambda: reader.read({"store": [1]}),
        lambda: online_store.online_write_batch(store.config, applied, [written], None),
    ):
        with pytest.raises(
            ChangedDefinitionError, match=r"size in demand_forecasting_per_store is no longer a .*refresh_registry"
        ):
            use()
    store.refresh_registry()
    assert sizes(store, 1) == [True]


def test_a_table_in_the_layout_of_feasts_own_store_is_replaced(store: FeatureStore, database: PostgresSettings) -> None:
    with psycopg.connect(database.url) as connection:
        table = "feast_online.demand_forecasting_per_store"
        connection.execute(f"DROP TABLE {table}")
        connection.execute(
            f"CREATE TABLE {table} (entity_key bytea, feature_name text, value bytea, event_ts timestamptz, "
            "PRIMARY KEY (entity_key, feature_name))"
        )

    store.apply([PER_STORE])

    write(store, PER_STORE, {(1,): {"size": 5}})
    assert sizes(store, 1) == [5]


def test_a_view_that_is_deleted_or_was_never_applied_is_said_to_be_unknown(store: FeatureStore) -> None:
    store.get_feature_view("per_store")  # into the registry's cache
    write(store, PER_STORE, {(1,): {"size": 5}})
    applied = store.get_feature_view("per_store")
    online_store: Any = store._get_provider().online_store

    online_store.teardown(store.config, [applied], [])

    with pytest.raises(LookupError, match="apply the feature repository first"):
        online_store.online_read(store.config, applied, [])
    store.apply([PER_STORE])
    assert sizes(store, 1) == [None]


def test_a_feature_cannot_take_the_name_of_a_column_of_the_stores(store: FeatureStore) -> None:
    with pytest.raises(ValueError, match="event_ts is a column of the online store's own"):
        store.apply([view("clash", {"event_ts": Int64}, [store_entity])])


def test_long_names_stay_apart(store: FeatureStore) -> None:
    views: list[Any] = [view("v" * 70 + end, {"size": Int64}, [store_entity]) for end in "ab"]
    store.apply(views)
    for size, each in enumerate(views):
        write(store, each, {(1,): {"size": size}})

    found = [read(store, [f"{each.name}:size"], [{"store": 1}])["size"] for each in views]

    assert found == [[0], [1]]
