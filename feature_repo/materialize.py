"""Filling the online store: stored features as Feast does it, on-demand features computed once, here, and then read.

``feast materialize`` and ``materialize-incremental`` write the same; they take longer, because Feast computes the
on-demand features row by row in pandas and reads all windows of two years to keep the last ones.
"""

import contextlib
import io
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from feast import OnDemandFeatureView

from feature_repo.definitions import ON_DEMAND_VIEWS, STORED_VIEWS, TTL, sales_window_features
from feature_repo.features import ENTITY_KEYS, TIMESTAMP
from feature_repo.online_store import RowOnlineStore
from feature_repo.provider import write_computed

if TYPE_CHECKING:
    from feast import FeatureStore


def materialize(store: "FeatureStore", end: datetime) -> None:
    """Write the newest features of every key, of the time to live before ``end``, to the online store.

    Rows of weeks after ``end``, which a later state of the data left behind, are removed first: they would be taken
    for newer ones.

    Windows are written for the series that have a row in the week of ``end`` only: nothing is forecast for others, and
    Feast reads every window of two years to keep the last.
    """
    provider: Any = store._get_provider()
    if isinstance(provider.online_store, RowOnlineStore):
        provider.online_store.forget_after(store.config, [*STORED_VIEWS, *_on_demand_views(store)], end)
    _write(store, end - TTL + timedelta(seconds=1), end)


def materialize_incremental(store: "FeatureStore", end: datetime) -> None:
    """Write the newest features of the keys with rows between the last materialization and ``end``, both included.

    For these keys the outcome is that of ``materialize``. Keys without a row since then keep what they have, so it
    takes a full materialization to bring in what has changed of their earlier rows: corrected weeks, or a changed
    definition of a feature. The first materialization, and one to an earlier time than the last, is a full one.
    """
    since = last_materialized(store)
    if since is None or since > end:
        materialize(store, end)
    else:
        _write(store, since, end)


def last_materialized(store: "FeatureStore") -> datetime | None:
    """The time up to which the last materialization of each stored view went, or None where there was none.

    Not Feast's ``most_recent_end_time``, which is the latest of all: the last one may have been to an earlier time.
    """
    intervals = [store.get_feature_view(view.name).materialization_intervals for view in STORED_VIEWS]
    return min(each[-1][1] for each in intervals) if all(intervals) else None


def newest_rows(start: datetime, end: datetime) -> str:
    """SQL for the newest entity row of each series between two times, both included."""
    keys = ", ".join(ENTITY_KEYS)
    return (
        f"SELECT DISTINCT ON ({keys}) {keys}, {TIMESTAMP} FROM sales_features "  # noqa: S608 - names and times of ours
        f"WHERE {TIMESTAMP} BETWEEN '{start.isoformat()}' AND '{end.isoformat()}' ORDER BY {keys}, {TIMESTAMP} DESC"
    )


def _write(store: "FeatureStore", start: datetime, end: datetime) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # Feast prints a progress bar per view
        tables = [view.name for view in STORED_VIEWS if view is not sales_window_features]
        store.materialize(start, end, feature_views=tables)
        store.materialize(end - timedelta(days=6), end, feature_views=[sales_window_features.name])
    references = [f"{view.name}:{feature.name}" for view in ON_DEMAND_VIEWS for feature in view.features]
    computed = store.get_historical_features(newest_rows(start, end), references).to_arrow()
    provider: Any = store._get_provider()
    for view in _on_demand_views(store):
        write_computed(provider, store.config, view, computed)


def _on_demand_views(store: "FeatureStore") -> list[OnDemandFeatureView]:
    """As the registry has them: those of ``definitions`` have no keys until this very process applies them."""
    return [store.get_on_demand_feature_view(view.name) for view in ON_DEMAND_VIEWS]
