"""How a forecast in dollars is scored."""

from typing import Any

import numpy as np

HOLIDAY_WEIGHT = 5.0
MAPE_FLOOR_DOLLARS = 1_000.0

Floats = np.ndarray[Any, np.dtype[np.float64]]


def score_sums(actual_N: Floats, forecast_N: Floats, is_holiday_N: Floats) -> Floats:
    """Sums from which `scores` follow. They add up over shards of the rows.

    Args:
        actual_N: dollars.
        forecast_N: dollars.
        is_holiday_N: 1 in flagged holiday weeks, else 0.
    """
    weight_N = np.where(is_holiday_N > 0, HOLIDAY_WEIGHT, 1.0)
    error_N = np.abs(forecast_N - actual_N)
    large_N = actual_N > MAPE_FLOOR_DOLLARS
    return np.array(
        [
            (weight_N * error_N).sum(),
            weight_N.sum(),
            error_N.sum(),
            np.square(error_N).sum(),
            np.abs(actual_N).sum(),
            len(actual_N),
            (error_N[large_N] / actual_N[large_N]).sum(),
            large_N.sum(),
        ]
    )


def scores(sums: Floats) -> dict[str, float]:
    """The metrics of the rows behind `score_sums`.

    Returns:
        wmae: dollars, sum(w |y - f|) / sum(w) with w = 5 in holiday weeks and else 1 (the competition's measure).
        mae, rmse: dollars.
        wape: a fraction, sum|y - f| / sum|y|.
        mape: a fraction, over rows above $1,000 alone; 0 where there are none.
    """
    weighted, weights, absolute, squared, actual, rows, relative, large = (float(value) for value in sums)
    return {
        "wmae": weighted / weights,
        "mae": absolute / rows,
        "rmse": (squared / rows) ** 0.5,
        "wape": absolute / actual if actual else 0.0,
        "mape": relative / large if large else 0.0,
    }


def evaluate(actual_N: Floats, forecast_N: Floats, is_holiday_N: Floats) -> dict[str, float]:
    """`scores` of one forecast over all of its rows."""
    return scores(score_sums(actual_N, forecast_N, is_holiday_N))


def interval_scores(actual_N: Floats, low_N: Floats, high_N: Floats) -> dict[str, float]:
    """How often sales fell inside an interval that should hold them in 80 % of the rows.

    Returns:
        coverage, below, above: fractions of the rows inside it, under it and over it.
        width: dollars, the mean of high - low.
    """
    below, above = float((actual_N < low_N).mean()), float((actual_N > high_N).mean())
    return {"coverage": 1 - below - above, "below": below, "above": above, "width": float((high_N - low_N).mean())}
