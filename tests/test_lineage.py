"""The columns that a column is said to come from are those, and no others, that it changes with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo.features import (
    ENTITY_KEYS,
    FRAME_FEATURES,
    ON_DEMAND,
    SALES_HISTORY,
    STORE_EXTERNAL,
    TIMESTAMP,
    VIEWS,
    names,
)
from feature_repo.transformations import INPUTS, on_demand_features
from forecast_assets.ingest.drop import Drop, DropFile, read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table
from forecast_assets.lineage import column_lineage, joined_sources, view_sources


@pytest.fixture(scope="module")
def drop(small_drop: Path) -> Drop:
    return read_drop(small_drop)


def changed(drop: Drop, column: str) -> Drop:
    """The drop with other values in one column, which is named as in the lineage: ``train_csv.Weekly_Sales``."""
    asset, name = column.split(".")
    part = asset.removesuffix("_csv")
    file: DropFile = getattr(drop, part)
    values = file.table[name]
    if name == "Type":
        other = pc.choose(pc.cast(pc.equal(values, "A"), pa.int64()), "A", "B")
    elif name == "IsHoliday":
        other = pc.invert(values)
    elif name.startswith("MarkDown"):
        # Where there was none there is one, so that whether there is any changes too.
        other = pc.add(pc.fill_null(values, 0.0), 17.0)
    else:
        # Grows from row to row: a constant would leave differences and deviations as they are.
        factor = pa.array(np.linspace(1.5, 2.5, len(values)))
        other = pc.cast(pc.multiply(pc.cast(values, pa.float64()), factor), values.type, safe=False)
    table = file.table.set_column(file.table.column_names.index(name), name, other)
    return replace(drop, **{part: replace(file, table=table)})


@pytest.mark.parametrize(
    "column",
    sorted({column for f in SALES_HISTORY + STORE_EXTERNAL for column in f.computed_from if ".Date" not in column}),
)
def test_a_change_of_a_raw_column_changes_the_features_that_are_said_to_come_from_it(drop: Drop, column: str) -> None:
    features, other = SALES_HISTORY + STORE_EXTERNAL, changed(drop, column)
    tables = (sales_features_table, store_features_table)

    moved = set()
    for table in tables:
        before, after = table(drop).rows, table(other).rows
        moved |= {name for name in before.column_names if not before[name].equals(after[name])}

    assert moved == {feature.name for feature in features if column in feature.computed_from}


@pytest.mark.parametrize("column", sorted({name for inputs in INPUTS.values() for name in inputs}))
def test_a_change_of_an_input_changes_the_on_demand_features_that_are_computed_from_it(column: str) -> None:
    chance = np.random.default_rng(5)
    inputs = {name: chance.uniform(10, 50, 100) for names in INPUTS.values() for name in names}

    before = on_demand_features(inputs)
    after = on_demand_features(inputs | {column: inputs[column] * chance.uniform(0.5, 0.9, 100)})

    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {feature.name for feature in ON_DEMAND if column in feature.computed_from}


def test_every_column_of_views_and_frame_leads_to_a_column_that_there_is(drop: Drop) -> None:
    columns = {
        "sales_features": set(sales_features_table(drop).rows.column_names),
        "store_features": set(store_features_table(drop).rows.column_names),
        "sales_windows": {"sales"},
        **{view.name: {*view.keys, TIMESTAMP, *names(view.features)} for view in VIEWS},
    }
    lineages = [column_lineage(view_sources(view)) for view in VIEWS]
    lineages.append(column_lineage(joined_sources(FRAME_FEATURES)))

    for lineage in lineages:
        for column, sources in lineage.deps_by_column.items():
            assert sources, column
            assert [s for s in sources if s.column_name not in columns[s.asset_key.to_user_string()]] == []
    assert [*lineages[-1].deps_by_column] == [*ENTITY_KEYS, TIMESTAMP, *names(FRAME_FEATURES)]
