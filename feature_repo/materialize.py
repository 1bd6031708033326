"""Filling the online store: stored features as Feast does it, on-demand features computed once, here, and then read."""

import contextlib
import io
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from feast.utils import _convert_arrow_to_proto

from feature_repo.definitions import ENTITIES, ON_DEMAND_VIEWS, STORED_VIEWS, TTL, sales_window_features
from feature_repo.features import ENTITY_KEYS, TIMESTAMP

if TYPE_CHECKING:
    from feast import FeatureStore


def materialize(store: "FeatureStore", end: datetime) -> None:
    """Write the newest features of every key, of the time to live before ``end``, to the online store.

    Windows are written for the series that have a row in the week of ``end`` only: nothing is forecast for others, and
    Feast reads every window of two years to keep the last.

    Feast's own ``materialize`` of a view that is computed from views with different keys pairs each store with a
    department that is missing; the on-demand views are therefore written from a point-in-time retrieval.
    """
    start = end - TTL + timedelta(seconds=1)
    with contextlib.redirect_stdout(io.StringIO()):  # Feast prints a progress bar per view
        tables = [view.name for view in STORED_VIEWS if view is not sales_window_features]
        store.materialize(start, end, feature_views=tables)
        store.materialize(end - timedelta(days=6), end, feature_views=[sales_window_features.name])
    _write_on_demand(store, start, end)


def newest_rows(start: datetime, end: datetime) -> str:
    """SQL for the newest entity row of each series between two times, both included."""
    keys = ", ".join(ENTITY_KEYS)
    return (
        f"SELECT DISTINCT ON ({keys}) {keys}, {TIMESTAMP} FROM sales_features "  # noqa: S608 - names and times of ours
        f"WHERE {TIMESTAMP} BETWEEN '{start.isoformat()}' AND '{end.isoformat()}' ORDER BY {keys}, {TIMESTAMP} DESC"
    )


def _write_on_demand(store: "FeatureStore", start: datetime, end: datetime) -> None:
    references = [f"{view.name}:{feature.name}" for view in ON_DEMAND_VIEWS for feature in view.features]
    computed = store.get_historical_features(newest_rows(start, end), references).to_arrow().combine_chunks()
    join_keys = {entity.join_key: entity.value_type for entity in ENTITIES}
    times = computed[TIMESTAMP].to_pylist()
    provider: Any = store._get_provider()
    for view in ON_DEMAND_VIEWS:
        columns: pa.Table = computed.select([*ENTITY_KEYS, *(field.name for field in view.features)])
        rows = _convert_arrow_to_proto(columns, view, join_keys)
        # Feast would stamp them with the time of writing; they are of the week that they were computed for.
        stamped = [(key, values, time, None) for (key, values, *_), time in zip(rows, times, strict=True)]
        provider.online_write_batch(store.config, view, stamped, progress=None)
