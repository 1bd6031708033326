"""A good training frame passes; of a bad one, each rule it breaks is reported with its column and how often."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo.features import ENTITY_KEYS, FRAME_FEATURES, LABEL, TIMESTAMP, names
from feature_repo.transformations import INPUTS, on_demand_features
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table
from forecast_assets.schemas import FrameValidator, validate_training_frame

Edit = Callable[[pa.Table], pa.Table]


@pytest.fixture(scope="module")
def frame(small_drop: Path) -> pa.Table:
    """A hundred rows as the retrieval gives them: the first years of two series and the coming week left out."""
    drop = read_drop(small_drop)
    sales, stores = sales_features_table(drop).rows, store_features_table(drop).rows
    labelled = sales.filter(pc.is_valid(sales[LABEL])).slice(100, 100)
    joined = labelled.join(stores.drop_columns(["date"]), ["store", TIMESTAMP]).sort_by(
        [(name, "ascending") for name in (*ENTITY_KEYS, TIMESTAMP)]
    )
    inputs = {name: joined[name].cast(pa.float64()).to_numpy() for view in INPUTS for name in INPUTS[view]}
    for name, values in on_demand_features(inputs).items():
        joined = joined.append_column(name, pa.array(values))
    return joined.select([*ENTITY_KEYS, TIMESTAMP, *names(FRAME_FEATURES)])


def replaced(column: str, *values: Any) -> Edit:
    """Replaces the column's first values."""

    def apply(frame: pa.Table) -> pa.Table:
        field = frame.schema.field(column)
        new = [*values, *frame[column].to_pylist()[len(values) :]]
        return frame.set_column(frame.column_names.index(column), field, pa.array(new, field.type))

    return apply


def cast(column: str, to: pa.DataType) -> Edit:
    def apply(frame: pa.Table) -> pa.Table:
        return frame.set_column(frame.column_names.index(column), column, frame[column].cast(to))

    return apply


def broken_rules(frame: pa.Table) -> set[tuple[str, str, int]]:
    return {(failure.column, failure.rule, failure.rows) for failure in validate_training_frame(frame)}


def test_a_good_frame_breaks_no_rule(frame: pa.Table) -> None:
    assert validate_training_frame(frame) == []


def test_missing_history_returns_and_unknown_surroundings_are_no_mistake(frame: pa.Table) -> None:
    for edit in (replaced("sales_lag_52", None), replaced(LABEL, -4988.94), replaced("cpi", *[None] * 100)):
        assert validate_training_frame(edit(frame)) == []


BROKEN: list[tuple[str, Edit, set[tuple[str, str, int]]]] = [
    ("label missing", replaced(LABEL, None, None), {(LABEL, "not_nullable", 2)}),
    ("label not a number", replaced(LABEL, float("nan")), {(LABEL, "not_nullable", 1)}),
    ("flag missing", replaced("is_holiday", None), {("is_holiday", "not_nullable", 1)}),
    ("store 0", replaced("store", 0, -1), {("store", "greater_than_or_equal_to(1)", 2)}),
    ("week 54", replaced("week_of_year", 54, 54, 54), {("week_of_year", "less_than_or_equal_to(53)", 3)}),
    (
        "no time passed",
        replaced("weeks_since_last_sale", 0),
        {("weeks_since_last_sale", "greater_than_or_equal_to(1)", 1)},
    ),
    (
        "negative deviation",
        replaced("sales_rolling_std_4", -0.5),
        {("sales_rolling_std_4", "greater_than_or_equal_to(0)", 1)},
    ),
    ("unemployment 101 %", replaced("unemployment", 101.0), {("unemployment", "less_than_or_equal_to(100)", 1)}),
    ("no season", replaced("seasonal_sine", None), {("seasonal_sine", "not_nullable", 1)}),
    (
        "colder than cold",
        replaced("temperature_normalized", -0.1),
        {("temperature_normalized", "greater_than_or_equal_to(0)", 1)},
    ),
    ("column missing", lambda frame: frame.drop_columns(["cpi"]), {("the frame", "column_in_dataframe", 1)}),
    ("column unknown", lambda frame: frame.append_column("x", frame["cpi"]), {("the frame", "column_in_schema", 1)}),
    (
        "other order",
        lambda frame: frame.select([1, 0, *range(2, frame.num_columns)]),
        {("the frame", "column_ordered", 2)},
    ),
    ("numbers as text", cast("cpi", pa.string()), {("cpi", "dtype('float64')", 1)}),
    ("sizes with a fraction", cast("store_size", pa.float64()), {("store_size", "dtype('Int64')", 1)}),
    ("times without a zone", cast(TIMESTAMP, pa.timestamp("us")), {(TIMESTAMP, "dtype('datetime64[us, UTC]')", 1)}),
    (
        "rows twice",
        lambda frame: pa.concat_tables([frame, frame.slice(0, 3)]),
        {(column, "multiple_fields_uniqueness", 6) for column in (*ENTITY_KEYS, TIMESTAMP)},
    ),
]


@pytest.mark.parametrize(("edit", "expected"), [pytest.param(*case[1:], id=case[0]) for case in BROKEN])
def test_a_broken_rule_is_reported_with_its_column_and_count(
    frame: pa.Table, edit: Edit, expected: set[tuple[str, str, int]]
) -> None:
    assert broken_rules(edit(frame)) == expected


def test_several_broken_rules_are_all_reported_with_values(frame: pa.Table) -> None:
    bad = replaced("month", 13, 0)(replaced(LABEL, None)(replaced("store_size", -1)(frame)))
    assert broken_rules(bad) == {
        (LABEL, "not_nullable", 1),
        ("month", "less_than_or_equal_to(12)", 1),
        ("month", "greater_than_or_equal_to(1)", 1),
        ("store_size", "greater_than_or_equal_to(1)", 1),
    }
    values = {(failure.column, failure.rule): failure.first_values for failure in validate_training_frame(bad)}
    assert values["month", "less_than_or_equal_to(12)"] == "13"
    assert values["store_size", "greater_than_or_equal_to(1)"] == "-1"


def test_a_frame_checked_piece_by_piece_breaks_the_same_rules(frame: pa.Table) -> None:
    twice = pa.concat_tables([frame, frame.slice(0, 3)])
    for bad in (frame, twice, replaced("month", *[13] * 60)(frame), frame.drop_columns(["cpi"])):
        validator = FrameValidator()
        for batch in bad.combine_chunks().to_batches(max_chunksize=25):
            validator.check(pa.Table.from_batches([batch]))
        assert {(f.column, f.rule, f.rows) for f in validator.failures()} == broken_rules(bad)
