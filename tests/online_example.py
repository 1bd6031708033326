"""What the tests of the online store share: views with values of every type, written as Feast writes them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import Array, Bool, Bytes, FeastType, Float32, Float64, Int32, Int64, String, UnixTimestamp

from feature_repo.database import PostgresSettings
from feature_repo.store import open_store

NOON = datetime(2012, 11, 2, 12, 0, 0, 123456, tzinfo=UTC)

TYPES: dict[str, FeastType] = {
    "small": Int32,
    "large": Int64,
    "single": Float32,
    "double": Float64,
    "flag": Bool,
    "word": String,
    "raw": Bytes,
    "moment": UnixTimestamp,
    "window": Array(Float64),
    "counts": Array(Int64),
    "words": Array(String),
    "blobs": Array(Bytes),
}
FULL: dict[str, Any] = {
    "small": -(2**31),
    "large": 2**63 - 1,
    "single": 0.5,
    "double": 0.1 + 0.2,
    "flag": False,
    "word": "naïve, 'quoted' \\ %s",
    "raw": b"\x00\xff",
    "moment": datetime(2010, 2, 5, tzinfo=UTC),
    "window": [1.5, -0.0, 1e300],
    "counts": [1, 2, 3],
    "words": ["a", 'b"c'],
    "blobs": [b"\x00", b"z"],
}

store_entity = Entity(name="store", join_keys=["store"], value_type=ValueType.INT64)
code_entity = Entity(name="code", join_keys=["code"], value_type=ValueType.STRING)


def view(
    name: str, types: dict[str, FeastType], entities: Sequence[Entity] = (store_entity, code_entity)
) -> FeatureView:
    """A view of these features. Its table need not exist: rows are written directly."""
    return FeatureView(
        name=name,
        entities=list(entities),
        ttl=timedelta(0),
        source=PostgreSQLSource(name=f"{name}_source", table=name, timestamp_field="seen"),
        schema=[
            *(Field(name=e.join_key, dtype=Int64 if e is store_entity else String) for e in entities),
            *(Field(name=feature, dtype=dtype) for feature, dtype in types.items()),
        ],
    )


EVERY_TYPE = view("every_type", TYPES)
PER_STORE = view("per_store", {"size": Int64}, [store_entity])
SERVICE = FeatureService(name="both", features=[EVERY_TYPE, PER_STORE])


@contextmanager
def example_store(database: PostgresSettings, **options: Any) -> Iterator[FeatureStore]:
    """An applied feature store with these options of the online store."""
    with open_store(database) as store:
        for name, value in options.items():
            setattr(store.config.online_store, name, value)
        store.apply([store_entity, code_entity, EVERY_TYPE, PER_STORE, SERVICE])
        yield store


def write(
    store: FeatureStore,
    feature_view: FeatureView,
    rows: dict[tuple[Any, ...], dict[str, Any]],
    *,
    event: datetime = NOON,
    created: datetime | None = None,
    partly: bool = False,
) -> None:
    """Write features by key as a materialization does; ``partly`` leaves out those that are not given."""
    write_rows(store, feature_view, [(key, values, event, created) for key, values in rows.items()], partly=partly)


def write_rows(
    store: FeatureStore,
    feature_view: FeatureView,
    rows: Sequence[tuple[tuple[Any, ...], dict[str, Any], datetime, datetime | None]],
    *,
    partly: bool = False,
) -> None:
    """Write rows of key, features, event and created time in one batch."""
    applied = store.get_feature_view(feature_view.name)
    types = {field.name: field.dtype.to_value_type() for field in applied.features}
    data = [
        (
            EntityKey(
                join_keys=[field.name for field in applied.entity_columns],
                entity_values=[
                    python_values_to_proto_values([part], field.dtype.to_value_type())[0]
                    for part, field in zip(key, applied.entity_columns, strict=True)
                ],
            ),
            {name: _proto(values.get(name), type_) for name, type_ in types.items() if name in values or not partly},
            event,
            created,
        )
        for key, values, event, created in rows
    ]
    store._get_provider().online_write_batch(store.config, applied, data, None)


def sizes(store: FeatureStore, *stores: int) -> list[int | None]:
    """The feature ``size`` of these stores."""
    return list(read(store, ["per_store:size"], [{"store": each} for each in stores])["size"])


def read(store: FeatureStore, features: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """``get_online_features`` as a dictionary."""
    result: dict[str, Any] = store.get_online_features(features=features, entity_rows=rows).to_dict()
    return result


def _proto(value: Any, type_: ValueType) -> Value:
    return Value() if value is None else python_values_to_proto_values([value], type_)[0]


def first_key(applied: Any) -> EntityKey:
    """That of store 1, as Feast gives it to an online store, of a view as it was applied."""
    return EntityKey(join_keys=[applied.entity_columns[0].name], entity_values=[Value(int64_val=1)])
