"""The on-demand features: one vectorised function of stored features, for frames and for what is served alike.

Every result is finite, whatever the inputs:

- A denominator nearer to zero than a cent counts as a cent of its sign (0 as +1 cent). Sales are whole cents, so for a
  lag this is exactly the division by zero at a lag of -1 dollar.
- Inputs beyond ±1e15 count as ±1e15: far more dollars than there are, and too few to overflow.
- Where an input is missing, the feature is neutral: 0 for amounts, changes and the season, 0.5 for what runs from 0
  to 1.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from feature_repo.features import VIEWS

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

WEEKS_PER_SEASON = 52
CENT = 0.01
LARGEST = 1e15

INPUTS: dict[str, tuple[str, ...]] = {
    view.name: tuple(dict.fromkeys(name for feature in view.features for name in feature.computed_from))
    for view in VIEWS
    if view.on_demand
}
"""What each on-demand view reads. The label is in none."""


def on_demand_features(
    columns: Mapping[str, Floats], views: tuple[str, ...] = ("feature_transformations", "temporal_transformations")
) -> dict[str, Floats]:
    """The on-demand features of ``views``, in the order of the feature list.

    Args:
        columns: the ``INPUTS`` of the views, equally long, NaN where missing; others are not looked at.
        views: which of the on-demand views.

    Returns:
        Arrays as long as the inputs, by feature name, all finite. The formulas are those of the original design;
        their guards are said at the top of the module.
    """
    computed: dict[str, Floats] = {}
    for view in views:
        inputs = {name: np.clip(columns[name], -LARGEST, LARGEST) for name in INPUTS[view]}
        computed |= _FORMULAS[view](inputs)
    return computed


def transform_frame(view: str, frame: "pd.DataFrame") -> "pd.DataFrame":
    """``on_demand_features`` of one view for Feast, which hands over and takes back data frames.

    Values may be of any type that converts to float; None, which Feast gives for an unknown key, is missing.
    """
    import pandas as pd

    columns = {name: frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in INPUTS[view]}
    return pd.DataFrame(on_demand_features(columns, (view,)), index=frame.index, copy=False)


def _feature_transformations(inputs: Mapping[str, Floats]) -> dict[str, Floats]:
    markdown = inputs["total_markdown"]
    season = 2 * np.pi * inputs["week_of_year"] / WEEKS_PER_SEASON
    return {
        "temperature_normalized": _or_neutral(np.clip((inputs["temperature"] - 5) / 95, 0, 1), 0.5),
        "holiday_markdown_interaction": _or_neutral(inputs["is_holiday"] * markdown, 0),
        "markdown_momentum": _or_neutral(_ratio(markdown, inputs["sales_lag_1"] + 1), 0),
        "seasonal_sine": _or_neutral(np.sin(season), 0),
        "seasonal_cosine": _or_neutral(np.cos(season), 0),
    }


def _temporal_transformations(inputs: Mapping[str, Floats]) -> dict[str, Floats]:
    lag_1, lag_2, lag_4 = (inputs[f"sales_lag_{weeks}"] for weeks in (1, 2, 4))
    velocity = _ratio(lag_1 - lag_2, lag_2 + 1)
    variation = _ratio(inputs["sales_rolling_std_4"], inputs["sales_rolling_mean_4"] + 1)
    return {
        "sales_velocity": _or_neutral(velocity, 0),
        "sales_acceleration": _or_neutral(velocity - _ratio(lag_2 - lag_4, lag_4 + 1), 0),
        "demand_stability_score": _or_neutral(1 - np.clip(variation, 0, 1), 0.5),
    }


_FORMULAS: dict[str, Callable[[Mapping[str, Floats]], dict[str, Floats]]] = {
    "feature_transformations": _feature_transformations,
    "temporal_transformations": _temporal_transformations,
}


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    nearest = np.where(denominator < 0, -CENT, CENT)
    return numerator / np.where(np.abs(denominator) < CENT, nearest, denominator)


def _or_neutral(values: Floats, neutral: float) -> Floats:
    return np.where(np.isnan(values), neutral, values)
