"""What a forecast costs nothing: the naive baselines a model has to beat on the same rows and weights.

Where a baseline's own figure is missing it falls back to the mean of the last 4 weeks, then of the last 12, then to 0.
They need the table alone, so that any model can be compared with them on any rows.
"""

import numpy as np
import pyarrow as pa

from trainer.frame import floats, require_columns
from trainer.level import Floats, first_present
from trainer.metrics import evaluate

_RECENT = ("sales_rolling_mean_4", "sales_rolling_mean_12")
BASELINE_COLUMNS = ("sales_lag_1", "sales_lag_52", "sales_rolling_mean_4_lag_52", *_RECENT)
_GROWTH_BOUNDS = (0.5, 2.0)


def naive_forecasts(table: pa.Table) -> dict[str, Floats]:
    """Each baseline's forecast of each row, in dollars.

    Returns:
        lag_1: last week's sales.
        lag_52: the sales of the same week a year ago.
        lag_52_yoy: those times the recent year-on-year ratio, sales_rolling_mean_4 / sales_rolling_mean_4_lag_52,
            bounded by 1/2 and 2; the ratio is 1 where one of the means is missing or not positive.

    Raises:
        FrameError: a column is missing.
    """
    require_columns(table, BASELINE_COLUMNS)
    recent, longer = (floats(table, name) for name in _RECENT)
    last_year = floats(table, "sales_lag_52")
    level_last_year = floats(table, "sales_rolling_mean_4_lag_52")
    comparable = (recent > 0) & (level_last_year > 0)
    growth = np.clip(np.where(comparable, recent, 1.0) / np.where(comparable, level_last_year, 1.0), *_GROWTH_BOUNDS)
    own = {
        "lag_1": floats(table, "sales_lag_1"),
        "lag_52": last_year,
        "lag_52_yoy": last_year * growth,
    }
    return {name: first_present(figure, recent, longer, np.zeros_like(recent)) for name, figure in own.items()}


def score_baselines(table: pa.Table, *, label: str, holiday: str) -> dict[str, dict[str, float]]:
    """`trainer.metrics.evaluate` of each baseline on the rows of `table`.

    Raises:
        FrameError: a column is missing.
    """
    require_columns(table, [label, holiday])
    actual, is_holiday = floats(table, label), floats(table, holiday)
    return {name: evaluate(actual, forecast, is_holiday) for name, forecast in naive_forecasts(table).items()}
