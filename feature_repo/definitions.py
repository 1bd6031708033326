"""Entities, sources, feature views and feature services, as Feast objects, derived from ``features.py``."""

import inspect
from collections.abc import Callable, Sequence
from datetime import timedelta

import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, OnDemandFeatureView, ValueType
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import Array, Bool, FeastType, Float64, Int32, Int64, String

from feature_repo.features import (
    INFERENCE_SERVICE,
    LABEL,
    SALES_HISTORY,
    SEQUENCE_SERVICE,
    TAGS,
    TIMESTAMP,
    TRAINING_SERVICE,
    TTL_DAYS,
    VIEWS,
    WINDOW_WEEKS,
    Feature,
    FeatureType,
    names,
)
from feature_repo.transformations import INPUTS

OWNER = "demand-forecasting"
TTL = timedelta(days=TTL_DAYS)

_FEAST_TYPES: dict[FeatureType, FeastType] = {
    "float64": Float64,
    "int32": Int32,
    "int64": Int64,
    "bool": Bool,
    "string": String,
    "float64[]": Array(Float64),
}
_VIEWS = {view.name: view for view in VIEWS}


def _fields(features: tuple[Feature, ...]) -> list[Field]:
    return [Field(name=f.name, dtype=_FEAST_TYPES[f.type], description=f.description) for f in features]


def _source(table: str, description: str) -> PostgreSQLSource:
    return PostgreSQLSource(
        name=table, table=table, timestamp_field=TIMESTAMP, description=description, owner=OWNER, tags=TAGS
    )


def _view(name: str, source: PostgreSQLSource) -> FeatureView:
    view = _VIEWS[name]
    return FeatureView(
        name=name,
        entities=[entity for entity in ENTITIES if entity.name in view.keys],
        ttl=TTL,
        schema=_fields(view.features),
        source=source,
        description=view.description,
        owner=OWNER,
        tags=TAGS,
    )


def _on_demand_view(transformation: Callable[[pd.DataFrame], pd.DataFrame]) -> OnDemandFeatureView:
    """The view of the function's name, computed when the online store is written, and only read after that.

    Feast keeps the function's text in the registry and runs it with nothing around it: it must import what it needs.
    """
    view = _VIEWS[transformation.__name__]
    stored = [parent for parent in STORED_VIEWS if parent.name in view.sources]
    return OnDemandFeatureView(
        name=view.name,
        entities=ENTITIES,
        sources=[parent[[f.name for f in parent.features if f.name in INPUTS[view.name]]] for parent in stored],
        # Feast refuses descriptions here, so the view's own lists them.
        schema=[Field(name=f.name, dtype=_FEAST_TYPES[f.type]) for f in view.features],
        mode="pandas",
        feature_transformation=PandasTransformation(transformation, inspect.getsource(transformation)),
        write_to_online_store=True,
        description="\n".join([view.description, *(f"- {f.name}: {f.description}" for f in view.features)]),
        owner=OWNER,
        tags=TAGS,
    )


def _service(name: str, description: str, features: Sequence[FeatureView | OnDemandFeatureView]) -> FeatureService:
    return FeatureService(name=name, features=list(features), description=description, owner=OWNER, tags=TAGS)


store = Entity(
    name="store", join_keys=["store"], value_type=ValueType.INT64, description="A store", owner=OWNER, tags=TAGS
)
dept = Entity(
    name="dept", join_keys=["dept"], value_type=ValueType.INT64, description="A department", owner=OWNER, tags=TAGS
)
ENTITIES = [store, dept]

sales_source = _source("sales_features", "Weekly sales and their history, one row per store, department and week")
store_source = _source("store_features", "What is known of a store and its region, one row per store and week")
# A slice of the series' one array, found by its primary key: 52 numbers per row would be a table of 200 MB.
window_source = PostgreSQLSource(
    name="sales_windows",
    query=f"""
        SELECT rows.store, rows.dept, rows.{TIMESTAMP},
            series.sales[week : week + {WINDOW_WEEKS - 1}] AS sales_window_{WINDOW_WEEKS}
        FROM sales_features rows
        JOIN sales_windows series ON series.store = rows.store AND series.dept = rows.dept
            AND rows.date BETWEEN series.first_week AND series.last_week
        CROSS JOIN LATERAL (SELECT (rows.date - series.first_week) / 7 + 1) position (week)
    """,  # noqa: S608 - constants of ours
    timestamp_field=TIMESTAMP,
    description="The 52 weeks before each row of sales_features, cut from each series' sales",
    owner=OWNER,
    tags=TAGS,
)

sales_history_features = _view("sales_history_features", sales_source)
store_external_features = _view("store_external_features", store_source)
sales_window_features = _view("sales_window_features", window_source)
STORED_VIEWS = [sales_history_features, store_external_features, sales_window_features]


def feature_transformations(inputs: pd.DataFrame) -> pd.DataFrame:
    """Promotion, weather and season."""
    from feature_repo.transformations import transform_frame

    return transform_frame("feature_transformations", inputs)


def temporal_transformations(inputs: pd.DataFrame) -> pd.DataFrame:
    """How sales move and how even they are."""
    from feature_repo.transformations import transform_frame

    return transform_frame("temporal_transformations", inputs)


ON_DEMAND_VIEWS = [_on_demand_view(feature_transformations), _on_demand_view(temporal_transformations)]

demand_forecasting_service = _service(
    TRAINING_SERVICE,
    "What a model is trained on: all features and the label",
    [sales_history_features, store_external_features, *ON_DEMAND_VIEWS],
)
_INPUTS: list[FeatureView | OnDemandFeatureView] = [
    sales_history_features[[name for name in names(SALES_HISTORY) if name != LABEL]],
    store_external_features,
    *ON_DEMAND_VIEWS,
]
demand_forecasting_inference = _service(
    INFERENCE_SERVICE, "What a forecast is made from: the same features without the label", _INPUTS
)
demand_forecasting_sequence = _service(
    SEQUENCE_SERVICE,
    "What a sequence model reads: the same and the sales of the year before; no label, which an entity frame for "
    "training brings as a column of its own",
    [sales_window_features, *_INPUTS],
)

FEATURE_VIEWS: list[FeatureView | OnDemandFeatureView] = [*STORED_VIEWS, *ON_DEMAND_VIEWS]
FEATURE_SERVICES = [demand_forecasting_service, demand_forecasting_inference, demand_forecasting_sequence]
