"""On-demand features follow their formulas, are finite for whatever comes in, and never see the label."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.features import (
    FEATURE_TRANSFORMATIONS,
    LABEL,
    ON_DEMAND,
    SALES_HISTORY,
    STORE_EXTERNAL,
    TEMPORAL_TRANSFORMATIONS,
    names,
)
from feature_repo.transformations import INPUTS, on_demand_features, transform_frame

EVERY_INPUT = sorted({name for inputs in INPUTS.values() for name in inputs})
ORDINARY = {
    "temperature": 52.5,
    "is_holiday": 1.0,
    "total_markdown": 600.0,
    "week_of_year": 13.0,
    "sales_lag_1": 299.0,
    "sales_lag_2": 199.0,
    "sales_lag_4": 99.0,
    "sales_rolling_mean_4": 199.0,
    "sales_rolling_std_4": 50.0,
}
anything = st.floats() | st.sampled_from([-1.0, -1.0 + 1e-17, -0.995, 0.0, -0.0, 1e308, -1e308, math.nan])


def of_row(**changes: float) -> dict[str, float]:
    inputs = {name: np.array([value]) for name, value in (ORDINARY | changes).items()}
    return {name: float(values[0]) for name, values in on_demand_features(inputs).items()}


def test_an_ordinary_row_follows_the_formulas() -> None:
    assert of_row() == pytest.approx(
        {
            "temperature_normalized": 0.5,
            "holiday_markdown_interaction": 600,
            "markdown_momentum": 2,
            "seasonal_sine": 1,
            "seasonal_cosine": 0,
            "sales_velocity": 0.5,
            "sales_acceleration": -0.5,
            "demand_stability_score": 0.75,
        }
    )


@pytest.mark.parametrize(
    ("changes", "feature", "expected"),
    [
        ({"temperature": -20}, "temperature_normalized", 0),
        ({"temperature": 110}, "temperature_normalized", 1),
        ({"temperature": math.nan}, "temperature_normalized", 0.5),
        ({"is_holiday": 0}, "holiday_markdown_interaction", 0),
        ({"sales_lag_1": 0}, "markdown_momentum", 600),
        ({"sales_lag_1": -1}, "markdown_momentum", 600 / 0.01),
        ({"sales_lag_1": -1.01}, "markdown_momentum", 600 / -0.01),
        ({"sales_lag_1": -1.001}, "markdown_momentum", 600 / -0.01),
        ({"sales_lag_1": math.nan}, "markdown_momentum", 0),
        ({"sales_lag_2": math.nan}, "sales_velocity", 0),
        ({"sales_lag_4": math.nan}, "sales_acceleration", 0),
        ({"sales_rolling_std_4": 1e6}, "demand_stability_score", 0),
        ({"sales_rolling_mean_4": -50}, "demand_stability_score", 1),
        ({"sales_rolling_std_4": math.nan}, "demand_stability_score", 0.5),
    ],
)
def test_the_guards_say_what_comes_of_odd_values(changes: dict[str, float], feature: str, expected: float) -> None:
    assert of_row(**changes)[feature] == pytest.approx(expected)


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(EVERY_INPUT, anything)), min_size=1, max_size=8))
def test_every_feature_of_any_row_is_finite_and_does_not_depend_on_the_rows_beside_it(
    rows: list[dict[str, float]],
) -> None:
    together = on_demand_features({name: np.array([row[name] for row in rows]) for name in EVERY_INPUT})
    assert list(together) == names(ON_DEMAND)
    for position, row in enumerate(rows):
        alone = of_row(**row)
        assert {name: values[position] for name, values in together.items()} == alone
        assert all(map(math.isfinite, alone.values()))
        for name in ("temperature_normalized", "demand_stability_score"):
            assert 0 <= alone[name] <= 1


def test_inputs_are_listed_features_and_never_the_label() -> None:
    assert set(EVERY_INPUT) <= set(names(SALES_HISTORY + STORE_EXTERNAL)) - {LABEL}


def test_only_the_listed_inputs_are_looked_at() -> None:
    inputs = {name: np.array([value]) for name, value in ORDINARY.items()}
    assert set(on_demand_features(inputs)) == set(names(ON_DEMAND))
    with_label = inputs | {LABEL: np.array([1e9])}
    assert on_demand_features(with_label) == on_demand_features(inputs)


def test_inputs_are_not_changed() -> None:
    inputs = {name: np.array([1e300, math.nan, -1.0]) for name in EVERY_INPUT}
    before = {name: values.copy() for name, values in inputs.items()}
    on_demand_features(inputs)
    for name, values in inputs.items():
        np.testing.assert_array_equal(values, before[name])


@pytest.mark.parametrize(
    ("view", "features"),
    [("feature_transformations", FEATURE_TRANSFORMATIONS), ("temporal_transformations", TEMPORAL_TRANSFORMATIONS)],
)
def test_a_data_frame_of_any_types_is_taken_and_none_is_missing(view: str, features: tuple[object, ...]) -> None:
    unknown = pd.DataFrame({name: [None, None] for name in EVERY_INPUT}, dtype=object)
    nullable = pd.DataFrame({name: pd.array([value, None], dtype="Float64") for name, value in ORDINARY.items()})
    nullable["is_holiday"] = pd.array([True, None], dtype="boolean")
    nullable["week_of_year"] = pd.array([13, None], dtype="Int32")
    neutral = of_row(**dict.fromkeys(EVERY_INPUT, math.nan))
    for frame, expected in ((unknown, [neutral, neutral]), (nullable, [of_row(), neutral])):
        result = transform_frame(view, frame)
        assert list(result) == names(features)  # type: ignore[arg-type]
        assert result.to_dict("records") == [{str(name): row[str(name)] for name in result} for row in expected]
