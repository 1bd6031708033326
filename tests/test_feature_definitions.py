"""The registered objects are the listed ones, say what they are, and let no transformation see the label."""

import copy
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from feast import FeatureService, FeatureStore, Field
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import Int64

from feature_repo import definitions
from feature_repo.database import PostgresSettings
from feature_repo.definition_hash import definition_hash
from feature_repo.definitions import FEATURE_VIEWS, ON_DEMAND_VIEWS, store_external_features
from feature_repo.features import (
    ENTITY_KEYS,
    INFERENCE_SERVICE,
    LABEL,
    SEQUENCE_SERVICE,
    TIMESTAMP,
    TRAINING_SERVICE,
    VIEWS,
    names,
)
from feature_repo.online_store import RowOnlineStore
from feature_repo.store import apply_definitions, open_store
from forecast_assets.ingest.drop import Drop, read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, sales_windows_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.sql import statement
from trainer.windows import WINDOW_COLUMN, SalesPanel, read_windows

WINDOW = "sales_window_52"


@pytest.fixture(scope="module")
def drop(small_drop: Path) -> Drop:
    return read_drop(small_drop)


@pytest.fixture(scope="module")
def feature_store(module_database: PostgresSettings, drop: Drop) -> Iterator[FeatureStore]:
    for table in (sales_features_table(drop), sales_windows_table(drop), store_features_table(drop)):
        publish(table, module_database, run_id="")
    with open_store(module_database) as store:
        apply_definitions(store)
        yield store


def test_the_registered_features_are_the_listed_ones_with_their_types(feature_store: FeatureStore) -> None:
    for view in VIEWS:
        registered = feature_store.get_feature_view(view.name) if not view.on_demand else None
        fields = (registered or feature_store.get_on_demand_feature_view(view.name)).features
        found = [(field.name, str(field.dtype).lower().replace("array(float64)", "float64[]")) for field in fields]
        assert found == [(feature.name, feature.type) for feature in view.features]


def test_everything_registered_is_described_owned_and_tagged(feature_store: FeatureStore) -> None:
    views = feature_store.list_feature_views()
    on_demand = feature_store.list_on_demand_feature_views()
    assert {view.name for view in [*views, *on_demand]} == {view.name for view in VIEWS}
    registered: list[Any] = [
        *feature_store.list_entities(),
        *feature_store.list_data_sources(),
        *views,
        *on_demand,
        *feature_store.list_feature_services(),
    ]
    assert [each.name for each in registered if not (each.description and each.owner and each.tags)] == []
    assert {view.ttl for view in views} == {timedelta(days=730)}
    assert [field.name for view in views for field in view.features if not field.description] == []
    for view in on_demand:
        assert [field.name for field in view.features if f"- {field.name}: " not in view.description] == []


def test_no_registered_transformation_can_read_the_label(feature_store: FeatureStore) -> None:
    for view in feature_store.list_on_demand_feature_views():
        read = [f.name for source in view.source_feature_view_projections.values() for f in source.features]
        assert LABEL not in read
        assert view.get_request_data_schema() == {}
        transformation: Any = view.feature_transformation
        assert LABEL not in transformation.udf_string


def test_no_feature_but_the_label_moves_when_the_labels_of_the_week_move(
    feature_store: FeatureStore, module_database: PostgresSettings
) -> None:
    service = feature_store.get_feature_service(TRAINING_SERVICE)
    before = feature_store.get_historical_features(statement("labelled_rows"), service).to_arrow()
    with psycopg.connect(module_database.url) as connection:
        connection.execute(f"UPDATE sales_features SET {LABEL} = 1e6 - {LABEL}")
    try:
        after = feature_store.get_historical_features(statement("labelled_rows"), service).to_arrow()
    finally:
        with psycopg.connect(module_database.url) as connection:
            connection.execute(f"UPDATE sales_features SET {LABEL} = 1e6 - {LABEL}")
    assert not after[LABEL].equals(before[LABEL])
    assert after.drop_columns([LABEL]).equals(before.drop_columns([LABEL]))


def test_the_services_offer_what_they_say(feature_store: FeatureStore) -> None:
    features = {
        service.name: {f.name for p in service.feature_view_projections for f in p.features}
        for service in feature_store.list_feature_services()
    }
    stored_and_computed = {name for view in VIEWS for name in names(view.features)} - {WINDOW}
    assert features[TRAINING_SERVICE] == stored_and_computed
    assert features[INFERENCE_SERVICE] == stored_and_computed - {LABEL}
    assert WINDOW in features[SEQUENCE_SERVICE]
    assert LABEL not in features[SEQUENCE_SERVICE]


def test_a_window_holds_the_52_weeks_before_the_row_and_nan_where_there_was_none(
    feature_store: FeatureStore, drop: Drop
) -> None:
    every_row = f"SELECT store, dept, {TIMESTAMP} FROM sales_features ORDER BY 1, 2, 3"
    found = feature_store.get_historical_features(
        every_row, feature_store.get_feature_service(SEQUENCE_SERVICE)
    ).to_arrow()

    train = drop.train.table
    weeks = train["Date"].cast(pa.int32())
    keys = zip(*(column.to_pylist() for column in (train["Store"], train["Dept"], weeks)), strict=True)
    sales = dict(zip(keys, train["Weekly_Sales"].to_pylist(), strict=True))
    rows = found.select([*ENTITY_KEYS]).to_pylist()
    dates = found[TIMESTAMP].cast(pa.date32()).cast(pa.int32()).to_pylist()
    expected = [
        [sales.get((row["store"], row["dept"], day - 7 * back), np.nan) for back in range(52, 0, -1)]
        for row, day in zip(rows, dates, strict=True)
    ]
    assert found.num_rows == len(sales) + 33
    np.testing.assert_array_equal(np.array(found[WINDOW].to_pylist()), np.array(expected))


def test_the_trainer_cuts_the_same_windows_from_labels(feature_store: FeatureStore, drop: Drop) -> None:
    windows = [f"sales_window_features:{WINDOW}"]
    served = feature_store.get_historical_features(statement("labelled_rows"), windows).to_arrow()
    rows = sales_features_table(drop).rows
    panel = SalesPanel.of(rows, series=ENTITY_KEYS, timestamp=TIMESTAMP, label=LABEL)
    assert WINDOW_COLUMN == WINDOW
    assert panel.windows(served).tobytes() == read_windows(served).tobytes()


def test_the_last_value_of_a_window_is_the_lag_of_one_week(feature_store: FeatureStore) -> None:
    references = [f"sales_window_features:{WINDOW}", "sales_history_features:sales_lag_1"]
    found = feature_store.get_historical_features(statement("labelled_rows"), references).to_arrow()
    last = pc.list_element(found[WINDOW], 51).to_numpy()
    np.testing.assert_array_equal(last, found["sales_lag_1"].to_numpy())


def test_a_hash_of_definitions_is_the_same_where_they_were_applied_and_where_not() -> None:
    for view in FEATURE_VIEWS:
        fresh, applied = copy.copy(view), copy.copy(view)
        fresh.entity_columns = []
        applied.entity_columns = [Field(name="store", dtype=Int64)]  # Feast fills them in as it applies a view
        assert definition_hash(fresh) == definition_hash(applied)
        applied.description = "another"
        assert definition_hash(fresh) != definition_hash(applied)


def registered_and_tables(feature_store: FeatureStore, database: PostgresSettings) -> tuple[set[str], set[str]]:
    views: list[Any] = feature_store.registry.list_all_feature_views(feature_store.project, skip_udf=True)
    with psycopg.connect(database.url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'feast_online'").fetchall()
    return {each.name for each in [*views, *feature_store.list_feature_services()]}, {table for (table,) in tables}


def test_what_is_not_defined_any_more_is_removed_with_its_tables_however_often_that_is_cut_off(
    feature_store: FeatureStore, module_database: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = registered_and_tables(feature_store, module_database)
    stored, computed = copy.copy(store_external_features), copy.copy(ON_DEMAND_VIEWS[0])
    stored.name, computed.name = "old_view", "old_transformations"
    feature_store.apply([stored, computed, FeatureService(name="old_service", features=[stored])])
    names, tables = registered_and_tables(feature_store, module_database)
    assert names - before[0] == {"old_view", "old_transformations", "old_service"}
    assert tables - before[1] == {"demand_forecasting_old_view", "demand_forecasting_old_transformations"}

    for owner, step in ((RowOnlineStore, "update"), (type(feature_store.registry), "delete_feature_view")):
        original = getattr(owner, step)

        def cut_off(*args: Any, original: Any = original, **kwargs: Any) -> None:
            if kwargs.get("tables_to_delete", True):
                raise InterruptedError
            original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(owner, step, cut_off)
            with pytest.raises(InterruptedError):
                apply_definitions(feature_store)

    apply_definitions(feature_store)

    assert registered_and_tables(feature_store, module_database) == before


def test_a_view_is_removed_after_its_function(
    feature_store: FeatureStore, module_database: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = registered_and_tables(feature_store, module_database)

    def old_transformations(inputs: pd.DataFrame) -> pd.DataFrame:
        return definitions.feature_transformations(inputs)

    # Of the module, as it was in a former release. Its text does not run alone, so Feast looks for the function there.
    old_transformations.__module__, old_transformations.__qualname__ = definitions.__name__, "old_transformations"
    monkeypatch.setattr(definitions, "old_transformations", old_transformations, raising=False)
    view = copy.copy(ON_DEMAND_VIEWS[0])
    view.name = "old_transformations"
    view.feature_transformation = PandasTransformation(old_transformations, "def old(inputs, weeks=WEEKS): ...")
    feature_store.apply([view])
    monkeypatch.undo()
    with pytest.raises(AttributeError, match="old_transformations"):
        feature_store.list_all_feature_views()

    apply_definitions(feature_store)

    assert registered_and_tables(feature_store, module_database) == before
    feature_store.list_all_feature_views()


def test_a_hash_of_definitions_does_not_depend_on_when_they_were_applied(feature_store: FeatureStore) -> None:
    views = [*feature_store.list_feature_views(), *feature_store.list_on_demand_feature_views()]
    before = [definition_hash(view) for view in views]
    assert len(set(before)) == len(VIEWS)
    apply_definitions(feature_store)
    after = [*feature_store.list_feature_views(), *feature_store.list_on_demand_feature_views()]
    assert [definition_hash(view) for view in after] == before
