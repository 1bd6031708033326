"""All series are answered as by Feast's own store, and by the reader as by Feast."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from feast import FeatureService, FeatureStore, Field, OnDemandFeatureView
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64
from online_example import (
    code_entity,
    read,
)

from benchmarks.full_size import live_keys, stock_store
from feature_repo.database import PostgresSettings
from feature_repo.definitions import sales_history_features, store_external_features
from feature_repo.features import INFERENCE_SERVICE
from feature_repo.materialize import materialize
from feature_repo.online_reader import OnlineReader, UnknownSeriesError
from feature_repo.store import apply_definitions, open_store
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, sales_windows_table, store_features_table
from forecast_assets.ingest.publish import publish

pytestmark = pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")


@pytest.fixture(scope="module")
def materialized(module_database: PostgresSettings, small_drop: Path) -> Iterator[tuple[FeatureStore, FeatureStore]]:
    """The project's features of the coming week in our store and in Feast's own."""
    drop = read_drop(small_drop)
    for table in (sales_features_table(drop), store_features_table(drop), sales_windows_table(drop)):
        publish(table, module_database, run_id="")
    _, week = live_keys(module_database)
    stock = stock_store(module_database)
    with open_store(module_database) as ours, contextlib.redirect_stdout(io.StringIO()):
        for store in (ours, stock):
            apply_definitions(store)
            materialize(store, week)
        yield ours, stock
    stock._get_provider().online_store._conn.close()  # type: ignore[attr-defined]
    stock.registry.write_engine.dispose()  # type: ignore[attr-defined]
    stock.registry.read_engine.dispose()  # type: ignore[attr-defined]


def test_all_series_are_answered_as_by_feasts_own_store(
    materialized: tuple[FeatureStore, FeatureStore], module_database: PostgresSettings
) -> None:
    keys, _ = live_keys(module_database)
    keys = [*keys, {"store": 999, "dept": 1}, *keys[:3]]

    ours, stock = [
        store.get_online_features(features=store.get_feature_service(INFERENCE_SERVICE), entity_rows=keys)
        for store in materialized
    ]

    assert _by_name(ours) == _by_name(stock)


def test_the_reader_gives_what_get_online_features_gives(
    materialized: tuple[FeatureStore, FeatureStore], module_database: PostgresSettings
) -> None:
    store, _ = materialized
    keys, week = live_keys(module_database)
    keys = [*keys, {"store": 999, "dept": 1}, *keys[:3]]

    features = OnlineReader(store, INFERENCE_SERVICE).read({name: [key[name] for key in keys] for name in keys[0]})

    expected = read(store, store.get_feature_service(INFERENCE_SERVICE), keys)
    assert features.table.to_pydict() == expected
    assert features.table.column_names == list(expected)
    assert features.unknown == [{"store": 999, "dept": 1}]
    assert set(features.event_times["sales_history_features"].to_pylist()) == {week, None}
    with pytest.raises(UnknownSeriesError, match=r"no such series in the online store: store 999, dept 1$"):
        features.raise_if_unknown()


def test_the_reader_computes_on_demand_features_once_per_read(
    materialized: tuple[FeatureStore, FeatureStore], module_database: PostgresSettings
) -> None:
    store, _ = materialized

    def momentum(inputs: pd.DataFrame) -> pd.DataFrame:
        lag = inputs["sales_lag_1"].astype(float)
        return pd.DataFrame({"momentum": inputs["total_markdown"].astype(float) / (lag.abs() + 1)})

    on_demand: OnDemandFeatureView = on_demand_feature_view(
        sources=[sales_history_features, store_external_features],
        schema=[Field(name="momentum", dtype=Float64)],
        mode="pandas",
    )(momentum)
    service = FeatureService(name="with_momentum", features=[sales_history_features[["month"]], on_demand])
    store.apply([on_demand, service])
    keys, _ = live_keys(module_database)
    keys = [*keys, {"store": 999, "dept": 1}]
    columns = {name: [key[name] for key in keys] for name in keys[0]}
    calls = []

    def transform(inputs: Any) -> Any:
        calls.append(len(inputs["sales_lag_1"]))
        return {"momentum": inputs["total_markdown"] / (abs(inputs["sales_lag_1"]) + 1)}

    fast = OnlineReader(store, "with_momentum", transform=transform).read(columns).table
    plain = OnlineReader(store, "with_momentum").read(columns).table

    assert fast.to_pydict() == plain.to_pydict() == read(store, service, keys)
    assert calls == [len(keys)]


def test_the_reader_says_which_key_column_is_missing(materialized: tuple[FeatureStore, FeatureStore]) -> None:
    with pytest.raises(KeyError, match="the service is read by dept, which the keys lack"):
        OnlineReader(materialized[0], INFERENCE_SERVICE).read({"store": [1]})


def _by_name(response: Any) -> dict[str, Any]:
    found = response.to_dict(include_event_timestamps=True)
    assert code_entity.join_key not in found
    return dict(sorted(found.items()))
