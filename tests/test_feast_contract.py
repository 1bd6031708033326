"""What Feast promises of a retrieval holds beyond the features that this project registers."""

import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
    SavedDatasetPostgreSQLStorage,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String

from feature_repo.database import PostgresSettings
from feature_repo.retrieval_job import ArrowRetrievalJob
from feature_repo.store import open_store

DAY_0 = datetime(2010, 2, 5, tzinfo=UTC)
DAY = timedelta(days=1)
TABLES = """
    CREATE TABLE "Naive Sales" ("Shop" bigint, "At" timestamp, "Amount" float8, price numeric);
    INSERT INTO "Naive Sales" VALUES (1, '2010-02-05', 10, 1.5), (1, '2010-02-05', 10, 1.5),
        (1, '2010-02-07', 20, NULL), (2, '2010-02-06', 30, 2);
    CREATE TABLE moments ("Shop" bigint, "At" timestamp, "Amount" float8, price numeric, UNIQUE ("Shop", "At"));
    CREATE TABLE days ("Shop" bigint, "At" date, "Amount" float8, price numeric, UNIQUE ("At", "Shop"));
    INSERT INTO moments SELECT DISTINCT * FROM "Naive Sales";
    INSERT INTO days SELECT DISTINCT * FROM "Naive Sales";
    CREATE TABLE visits (shop_no bigint, at timestamptz, made timestamptz, visitors bigint CHECK (visitors >= 0));
    CREATE TABLE weather (day timestamptz UNIQUE, sky text);
    INSERT INTO weather VALUES ('2010-02-05 00:00Z', 'clear'), ('2010-02-06 00:00Z', 'grey');
"""


@pytest.fixture(scope="module")
def store(module_database: PostgresSettings) -> Iterator[FeatureStore]:
    """A view of a table without an index, one of a query, one without entities, and features on demand."""
    with psycopg.connect(module_database.url) as connection:
        connection.execute(TABLES)
        # What a session reads a naive time as must not depend on the server.
        connection.execute("ALTER DATABASE " + module_database.database + " SET timezone = 'America/Chicago'")
    shop = Entity(name="Shop", join_keys=["Shop"], value_type=ValueType.INT64)
    fields = [Field(name="Shop", dtype=Int64), Field(name="Amount", dtype=Float64), Field(name="price", dtype=Float64)]
    sources = {
        "sold": PostgreSQLSource(name="sold", table='"Naive Sales"', timestamp_field="At"),
        "momentary": PostgreSQLSource(name="momentary", table="moments", timestamp_field="At"),
        "daily": PostgreSQLSource(name="daily", table="days", timestamp_field="At"),
        "asked": PostgreSQLSource(name="asked", query='SELECT * FROM "Naive Sales"', timestamp_field="At"),
    }
    views = [
        FeatureView(name=name, entities=[shop], ttl=timedelta(days=1, milliseconds=1), schema=fields, source=source)
        for name, source in sources.items()
    ]
    weather = PostgreSQLSource(name="weather", table="weather", timestamp_field="day")
    sky = FeatureView(
        name="sky", entities=[], ttl=timedelta(0), schema=[Field(name="sky", dtype=String)], source=weather
    )

    visited = FeatureView(
        name="visited",
        entities=[shop],
        schema=[Field(name="Shop", dtype=Int64), Field(name="visitors", dtype=Int64)],
        source=PostgreSQLSource(
            name="visits",
            table="visits",
            timestamp_field="at",
            created_timestamp_column="made",
            field_mapping={"shop_no": "Shop"},
        ),
    )
    routes = FeatureService(
        name="routes",
        features=[
            views[0][["Amount"]].with_name(end).with_join_key_map({"Shop": f"{end}_shop"}) for end in ("from", "to")
        ],
    )

    @on_demand_feature_view(sources=[views[0]], schema=[Field(name="double", dtype=Float64)])  # type: ignore[untyped-decorator]
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"double": inputs["Amount"] * 2})

    with open_store(module_database) as store:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
            store.apply([shop, *views, sky, visited, routes, doubled])
        yield store


def shops(*rows: tuple[int, datetime]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["Shop", "When"]).astype({"When": "datetime64[us, UTC]", "Shop": "int64"})


def columns(table: pa.Table, *names: str) -> list[Any]:
    return [table[name].to_pylist() for name in names]


ENTITIES = shops((1, DAY_0 + DAY), (2, DAY_0), (1, DAY_0 + 3 * DAY), (1, DAY_0 + DAY), (1, DAY_0 + 4 * DAY))
IN_SQL = f"""SELECT "Shop", "When" FROM (VALUES {
    ", ".join(f"({n}, {row.Shop}, timestamptz '{row.When}')" for n, row in enumerate(ENTITIES.itertuples()))
}) v (n, "Shop", "When") ORDER BY n;"""


@pytest.mark.parametrize("view", ["sold", "asked", "momentary", "daily"])
@pytest.mark.parametrize("entity_df", [ENTITIES, IN_SQL], ids=["a frame", "a query"])
def test_mixed_case_naive_times_copies_and_numbers_come_out_right_of_tables_and_queries(
    store: FeatureStore, view: str, entity_df: pd.DataFrame | str
) -> None:
    found = store.get_historical_features(entity_df, [f"{view}:Amount", f"{view}:price"]).to_arrow()
    assert found.column_names == ["Shop", "When", "Amount", "price"]
    assert columns(found, "Shop", "When") == [ENTITIES["Shop"].to_list(), ENTITIES["When"].to_list()]
    assert columns(found, "Amount", "price") == [[10, None, 20, 10, None], [1.5, None, None, 1.5, None]]
    assert found.schema.field("price").type == pa.float64()


def test_a_view_without_entities_is_joined_by_time_alone_and_can_be_materialized(store: FeatureStore) -> None:
    found = store.get_historical_features(ENTITIES, ["sold:Amount", "sky:sky"], full_feature_names=True).to_arrow()
    assert columns(found, "sold__Amount", "sky__sky") == [
        [10, None, 20, 10, None],
        ["grey", "clear", "grey", "grey", "grey"],
    ]
    store.materialize(DAY_0, DAY_0 + 9 * DAY, feature_views=["sky"])
    assert store.get_online_features(["sky:sky"], [{"Shop": 1}]).to_dict()["sky"] == ["grey"]


@pytest.mark.parametrize("view", ["sold", "asked", "sky"])
def test_no_entity_rows_give_no_rows_of_the_same_types(store: FeatureStore, view: str) -> None:
    feature = "sky:sky" if view == "sky" else f"{view}:Amount"
    some, none = (store.get_historical_features(frame, [feature]) for frame in (ENTITIES, ENTITIES.head(0)))
    assert none.to_arrow().num_rows == 0
    assert none.to_arrow().schema == some.to_arrow().schema
    assert isinstance(none, ArrowRetrievalJob)
    assert [batch.schema for batch in none.to_arrow_batches()] == [some.to_arrow().schema]


def test_a_range_of_dates_gives_each_event_of_each_entity_once(store: FeatureStore) -> None:
    found = store.get_historical_features(
        features=["sold:Amount", "sky:sky"], start_date=DAY_0, end_date=DAY_0 + DAY
    ).to_arrow()
    assert found.column_names == ["event_timestamp", "Shop", "Amount", "sky"]
    assert columns(found, "event_timestamp", "Shop") == [[DAY_0, DAY_0 + DAY], [1, 2]]
    assert columns(found, "Amount", "sky") == [[10, 30], ["clear", "grey"]]


@pytest.mark.filterwarnings("ignore:Saving dataset is an experimental feature:RuntimeWarning")
@pytest.mark.parametrize("features", [["sold:Amount"], ["sold:Amount", "doubled:double"]], ids=["stored", "on demand"])
def test_a_saved_dataset_holds_what_was_retrieved_and_is_replaced_only_on_request(
    store: FeatureStore, features: list[str]
) -> None:
    table = f"saved_{len(features)}"
    job = store.get_historical_features(ENTITIES.rename(columns={"When": "event_timestamp"}), features)
    storage = SavedDatasetPostgreSQLStorage(table_ref=table)
    dataset = store.create_saved_dataset(job, table, storage)
    saved, retrieved = dataset.to_arrow(), job.to_arrow()
    for reference in features:
        name = reference.split(":")[1]
        assert columns(saved, "Shop", name) == columns(retrieved, "Shop", name)
    with pytest.raises(Exception, match="already exists"):
        job.persist(storage)
    job.persist(storage, allow_overwrite=True)
    assert dataset.to_arrow().equals(saved)


def test_batches_add_up_to_the_table_features_on_demand_included(store: FeatureStore) -> None:
    job = store.get_historical_features(ENTITIES, ["sold:Amount", "doubled:double"])
    assert isinstance(job, ArrowRetrievalJob)
    whole = job.to_arrow()
    assert whole["double"].to_pylist() == [20, None, 40, 20, None]
    assert pa.Table.from_batches(job.to_arrow_batches()).equals(whole)


def test_names_longer_than_postgresql_keeps_are_kept(store: FeatureStore) -> None:
    long = "x" * 80
    found = store.get_historical_features(ENTITIES.assign(**{long: 1}), ["sold:Amount"]).to_arrow()
    assert found.column_names == ["Shop", "When", long, "Amount"]


def test_one_view_joined_under_two_names_takes_its_keys_from_two_columns(store: FeatureStore) -> None:
    entities = ENTITIES.rename(columns={"Shop": "from_shop"}).assign(to_shop=3 - ENTITIES["Shop"])
    found = store.get_historical_features(
        entities, store.get_feature_service("routes"), full_feature_names=True
    ).to_arrow()
    assert columns(found, "from_shop", "to_shop") == [[1, 2, 1, 1, 1], [2, 1, 2, 2, 2]]
    assert columns(found, "from__Amount", "to__Amount") == [[10, None, 20, 10, None], [30, 10, None, 30, None]]


def visits(*rows: tuple[int, int, int]) -> pd.DataFrame:
    """Shop, day and number of visitors, written on the day after."""
    days = [DAY_0 + day * DAY for _, day, _ in rows]
    return pd.DataFrame(
        {
            "shop_no": [shop for shop, _, _ in rows],
            "at": days,
            "made": [day + DAY for day in days],
            "visitors": [visitors for *_, visitors in rows],
        }
    )


def test_rows_written_through_feast_replace_their_like_all_or_none(store: FeatureStore) -> None:
    def retrieved() -> list[Any]:
        return columns(store.get_historical_features(ENTITIES, ["visited:visitors"]).to_arrow(), "visitors")[0]

    store.write_to_offline_store("visited", visits((1, 0, 5), (1, 2, 6), (2, 0, 7)))
    once = retrieved()
    store.write_to_offline_store("visited", visits((1, 0, 5), (1, 2, 6), (2, 0, 7)))
    assert once == retrieved() == [5, 7, 6, 5, 6]
    for wrong in (visits((1, 0, 50), (1, 2, -1)), visits((1, 0, 50)).assign(shop_no=None)):
        with pytest.raises(Exception, match=r"violates check constraint|missing values in shop_no"):
            store.write_to_offline_store("visited", wrong)
    assert retrieved() == once
    store.write_to_offline_store("visited", visits((1, 2, 60)))
    assert retrieved() == [5, 7, 60, 5, 60]
    with pytest.raises(ValueError, match="the source of asked is a query"):
        store.write_to_offline_store("asked", pd.DataFrame({"Shop": [1], "At": [DAY_0], "Amount": 1.0, "price": 1.0}))


def test_a_stream_reads_what_another_session_saw_when_it_exported_its_snapshot(
    store: FeatureStore, module_database: PostgresSettings
) -> None:
    job = store.get_historical_features(ENTITIES, ["momentary:Amount"])
    assert isinstance(job, ArrowRetrievalJob)
    before = job.to_arrow()
    with psycopg.connect(module_database.url) as driver, psycopg.connect(module_database.url) as loader:
        (snapshot,) = driver.execute("SELECT pg_export_snapshot()").fetchone() or ("",)
        loader.execute('UPDATE moments SET "Amount" = -1')
        loader.commit()
        assert pa.Table.from_batches(job.to_arrow_batches(snapshot=snapshot)).equals(before)
    assert not job.to_arrow().equals(before)
