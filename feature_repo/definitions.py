"""Entities, sources, feature views and feature services, as Feast objects, derived from ``features.py``."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.types import Bool, Float64, Int32, Int64, PrimitiveFeastType, String

from feature_repo.features import (
    INFERENCE_SERVICE,
    LABEL,
    SALES_HISTORY,
    STORE_EXTERNAL,
    TIMESTAMP,
    TRAINING_SERVICE,
    Feature,
    FeatureType,
    names,
)

OWNER = "demand-forecasting"
TTL = timedelta(days=730)
TAGS = {"domain": "demand", "cadence": "weekly"}

_FEAST_TYPES: dict[FeatureType, PrimitiveFeastType] = {
    "float64": Float64,
    "int32": Int32,
    "int64": Int64,
    "bool": Bool,
    "string": String,
}


def _fields(features: tuple[Feature, ...]) -> list[Field]:
    return [Field(name=f.name, dtype=_FEAST_TYPES[f.type], description=f.description) for f in features]


def _source(table: str, description: str) -> PostgreSQLSource:
    return PostgreSQLSource(
        name=table, table=table, timestamp_field=TIMESTAMP, description=description, owner=OWNER, tags=TAGS
    )


store = Entity(name="store", join_keys=["store"], value_type=ValueType.INT64, description="A store", owner=OWNER)
dept = Entity(name="dept", join_keys=["dept"], value_type=ValueType.INT64, description="A department", owner=OWNER)

sales_source = _source("sales_features", "Weekly sales and their history, one row per store, department and week")
store_source = _source("store_features", "What is known of a store and its region, one row per store and week")

sales_history_features = FeatureView(
    name="sales_history_features",
    entities=[store, dept],
    ttl=TTL,
    schema=_fields(SALES_HISTORY),
    source=sales_source,
    description="Sales of earlier weeks; the week's own sales are the label",
    owner=OWNER,
    tags=TAGS,
)
store_external_features = FeatureView(
    name="store_external_features",
    entities=[store],
    ttl=TTL,
    schema=_fields(STORE_EXTERNAL),
    source=store_source,
    description="Weather, prices, promotions and the store's own attributes",
    owner=OWNER,
    tags=TAGS,
)

demand_forecasting_service = FeatureService(
    name=TRAINING_SERVICE,
    features=[sales_history_features, store_external_features],
    description="What a model is trained on: all features and the label",
    owner=OWNER,
    tags=TAGS,
)
demand_forecasting_inference = FeatureService(
    name=INFERENCE_SERVICE,
    features=[
        sales_history_features[[name for name in names(SALES_HISTORY) if name != LABEL]],
        store_external_features,
    ],
    description="What a forecast is made from: the same features without the label",
    owner=OWNER,
    tags=TAGS,
)

ENTITIES = [store, dept]
FEATURE_VIEWS = [sales_history_features, store_external_features]
FEATURE_SERVICES = [demand_forecasting_service, demand_forecasting_inference]
