"""What is served is what a training would have seen; where it is not, the comparison says where."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from feast import FeatureStore

from feature_repo.database import PostgresSettings
from feature_repo.features import INFERENCE_SERVICE, SEQUENCE_SERVICE, VIEWS
from feature_repo.materialize import materialize
from feature_repo.parity import Difference, compare
from feature_repo.store import apply_definitions, open_store
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, sales_windows_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.sql import statement

WEEK = datetime(2012, 11, 2, tzinfo=UTC)
Keys = list[tuple[int, int]]


@pytest.fixture(scope="module")
def feature_store(module_database: PostgresSettings, small_drop: Path) -> Iterator[FeatureStore]:
    drop = read_drop(small_drop)
    for table in (sales_features_table(drop), sales_windows_table(drop), store_features_table(drop)):
        publish(table, module_database, run_id="")
    with open_store(module_database) as store:
        apply_definitions(store)
        materialize(store, WEEK)
        yield store


@pytest.fixture
def keys(module_database: PostgresSettings) -> Keys:
    with psycopg.connect(module_database.url) as connection:
        return [(store, dept) for store, dept, _ in connection.execute(statement("coming_week_rows")).fetchall()]


def tamper(database: PostgresSettings, view: str, key: tuple[int, int], feature: str, value: Any) -> None:
    """Changes one online value as if something else had written it."""
    with psycopg.connect(database.url) as connection:
        changed = connection.execute(
            f"UPDATE feast_online.demand_forecasting_{view} SET {feature} = %s WHERE (store, dept) = (%s, %s)",
            [value, *key],
        )
        assert changed.rowcount == 1


def test_every_live_series_is_served_what_a_training_would_see(feature_store: FeatureStore, keys: Keys) -> None:
    parity = compare(feature_store, keys, WEEK)
    assert (parity.series, parity.features) == (len(keys), sum(len(view.features) for view in VIEWS) - 1)
    assert (parity.values, parity.first) == (0, ())


@pytest.mark.parametrize(
    ("view", "feature", "change"),
    [
        ("sales_history_features", "sales_lag_1", lambda value: value * (1 + 2**-52)),
        ("sales_history_features", "sales_lag_52", lambda _: None),
        ("sales_history_features", "week_of_year", lambda value: value + 1),
        ("sales_history_features", "is_holiday", lambda value: not value),
        ("feature_transformations", "seasonal_sine", lambda value: value + 2e-12),
        ("temporal_transformations", "sales_velocity", lambda value: value - 1),
        ("sales_window_features", "sales_window_52", lambda value: [*value[:-1], value[-1] + 1]),
    ],
)
def test_a_single_changed_value_is_found_and_named_with_both_values(
    feature_store: FeatureStore, module_database: PostgresSettings, keys: Keys, view: str, feature: str, change: Any
) -> None:
    key = keys[7]
    reference = f"{view}:{feature}"
    entity_rows = [{"store": key[0], "dept": key[1]}]
    right = feature_store.get_online_features([reference], entity_rows).to_dict()[feature][0]
    tamper(module_database, view, key, feature, change(right))
    wrong = feature_store.get_online_features([reference], entity_rows).to_dict()[feature][0]

    parity = compare(feature_store, keys, WEEK)
    materialize(feature_store, WEEK)

    assert parity.values == 1
    assert repr(parity.first[0]) == repr(Difference(*key, feature, wrong, right))
    assert str(parity.first[0]).startswith(f"store {key[0]}, dept {key[1]}, {feature}: ")
    assert compare(feature_store, keys, WEEK).first == ()


def test_an_on_demand_value_within_the_tolerance_is_no_difference(
    feature_store: FeatureStore, module_database: PostgresSettings, keys: Keys
) -> None:
    entity_rows = [{"store": keys[0][0], "dept": keys[0][1]}]
    reference = "feature_transformations:seasonal_sine"
    value = feature_store.get_online_features([reference], entity_rows).to_dict()["seasonal_sine"][0]
    tamper(module_database, "feature_transformations", keys[0], "seasonal_sine", value + 5e-13)
    assert compare(feature_store, keys, WEEK).first == ()
    materialize(feature_store, WEEK)


def test_a_series_that_was_never_written_differs(feature_store: FeatureStore, keys: Keys) -> None:
    # It has store features: those of its store.
    parity = compare(feature_store, [*keys, (keys[0][0], 98_765)], WEEK)
    assert [(d.feature, d.online) for d in parity.first if d.store == keys[0][0] and d.dept == 98_765] == [
        (feature.name, None) for view in VIEWS if view.on_demand for feature in view.features
    ]


@pytest.mark.parametrize("service", [INFERENCE_SERVICE, SEQUENCE_SERVICE])
def test_an_unknown_key_is_served_as_missing_and_never_raises(feature_store: FeatureStore, service: str) -> None:
    response = feature_store.get_online_features(
        feature_store.get_feature_service(service), [{"store": 99_999, "dept": 1}]
    ).to_dict()
    assert {name for name, (value,) in response.items() if value is not None} == {"store", "dept"}


def test_on_demand_values_carry_the_week_that_they_were_computed_for(feature_store: FeatureStore, keys: Keys) -> None:
    response = feature_store.get_online_features(
        ["temporal_transformations:sales_velocity"], [{"store": keys[0][0], "dept": keys[0][1]}]
    ).to_dict(include_event_timestamps=True)
    assert response["sales_velocity__ts"] == [int(WEEK.timestamp())]
