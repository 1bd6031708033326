"""Filling the online store: stored features as Feast does it, on-demand features computed once, here, and then read.

``feast materialize`` and ``materialize-incremental`` write the same for live series; they take longer, because Feast
computes the on-demand features row by row in pandas and reads two years to keep the last rows. They also write one
view after the other, and leave the series that are not live any more.
"""

from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from feast.infra.compute_engines.local.compute import LocalComputeEngine
from tqdm import tqdm  # type: ignore[import-untyped]

from feature_repo.definitions import ON_DEMAND_VIEWS, STORED_VIEWS, TTL
from feature_repo.features import ENTITY_KEYS, SERIES_VIEWS, TIMESTAMP
from feature_repo.online_store import RowOnlineStore
from feature_repo.provider import write_computed

if TYPE_CHECKING:
    from feast import FeatureStore


def materialize(store: "FeatureStore", end: datetime) -> None:
    """Make the online store hold the features of the week that ends with ``end``, of all series that are live then.

    These are the series with a row in that week: nothing is forecast for others, and their rows are removed. So are
    rows of weeks after ``end``, which a later state of the data left behind. Of stores, the newest row of the time to
    live before ``end`` is written.

    All is read before anything is written, and written in one transaction: a reader sees what was there before or all
    of the new. Two set-ups cannot do that. Workers of a Ray cluster write for themselves, view by view; so does
    Feast's own online store, where nothing is removed either.

    Raises:
        ValueError: no series is live.
    """
    _write(store, end - TTL + timedelta(seconds=1), end)


def materialize_incremental(store: "FeatureStore", end: datetime) -> None:
    """Do as ``materialize``, but leave the stores without a row since the last materialization as they are.

    It takes a full materialization to bring in what has changed of their earlier rows. The first materialization, and
    one to an earlier time than the last, is a full one.
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


def _write(store: "FeatureStore", since: datetime, end: datetime) -> None:
    """Write the features of the live series, and of the stores with rows between ``since`` and ``end``."""
    provider: Any = store._get_provider()
    # As the registry has them: those of ``definitions`` have no keys until this very process applies them.
    stored = [store.get_feature_view(view.name) for view in STORED_VIEWS]
    on_demand = [store.get_on_demand_feature_view(view.name) for view in ON_DEMAND_VIEWS]
    week = end - timedelta(days=6)
    starts = {view.name: week if view.name in SERIES_VIEWS else since for view in stored}
    references = [f"{view.name}:{feature.name}" for view in ON_DEMAND_VIEWS for feature in view.features]
    computed = store.get_historical_features(newest_rows(week, end), references).to_arrow()
    if not computed.num_rows:
        raise ValueError(f"no series has a row of the week up to {end:%Y-%m-%d}: materialize up to the coming week")
    live = {name: computed[name].to_pylist() for name in ENTITY_KEYS}
    with _together(store, provider):
        if isinstance(provider.online_store, RowOnlineStore):
            for view in [*stored, *on_demand]:
                keep = live if view.name in SERIES_VIEWS else None
                provider.online_store.remove(store.config, view, later_than=end, keep=keep)
        for view in stored:
            provider.materialize_single_feature_view(
                config=store.config,
                feature_view=view,
                start_date=starts[view.name],
                end_date=end,
                registry=store.registry,
                project=store.project,
                tqdm_builder=lambda length: tqdm(total=length, disable=True),
            )
        for view in on_demand:
            write_computed(provider, store.config, view, computed)
    # What ``FeatureStore.materialize`` does view by view, and here only when all is written.
    for view in stored:
        store.registry.apply_materialization(view, store.project, starts[view.name], end)


def _together(store: "FeatureStore", provider: Any) -> AbstractContextManager[None]:
    """Where all writes are this process's, they are made in one transaction."""
    online_store = provider.online_store
    if isinstance(online_store, RowOnlineStore) and isinstance(provider.batch_engine, LocalComputeEngine):
        return online_store.together(store.config)
    return nullcontext()
