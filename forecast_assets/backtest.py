"""Rolling-origin evaluation: what would have been forecast at the end of each of some past weeks."""

import datetime
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from forecast_assets.accuracy import floats
from forecast_assets.horizon import Model, as_of, forecast_ahead
from forecast_assets.ingest.drop import DAYS_PER_WEEK, Drop
from forecast_assets.ingest.feature_tables import train_end
from trainer.baselines import naive_forecasts
from trainer.metrics import evaluate

MODEL = "model"
NAIVE = ("lag_1", "lag_52", "lag_52_yoy")


@dataclass(frozen=True, slots=True)
class NaiveModel:
    """A naive forecast in a model's place, so that it looks several weeks ahead in the same way."""

    name: str

    def predict(self, table: pa.Table) -> npt.NDArray[np.float64]:
        return naive_forecasts(table)[self.name]


def origins(drop: Drop, count: int, horizon: int, every: int) -> list[datetime.date]:
    """The last ``count`` weeks after which ``horizon`` weeks were sold, ``every`` weeks apart, oldest first."""
    last = train_end(drop) - datetime.timedelta(days=DAYS_PER_WEEK * horizon)
    return [last - datetime.timedelta(days=DAYS_PER_WEEK * every * n) for n in reversed(range(count))]


def replay(model: Model, drop: Drop, origin: datetime.date, horizon: int) -> pa.Table:
    """Forecast ``horizon`` weeks from what was known at the end of ``origin``, beside what was then sold.

    Returns:
        origin, store, dept, week, weeks_ahead, forecast, one column per naive forecast, weekly_sales and is_holiday;
        a row for each series that was live at the origin and has sales in the week.
    """
    past = as_of(drop, origin)
    forecasts = forecast_ahead(model, past, horizon)
    for name in NAIVE:
        forecasts = forecasts.append_column(name, forecast_ahead(NaiveModel(name), past, horizon)["forecast"])
    sold = drop.train.table.rename_columns(["store", "dept", "week", "weekly_sales", "is_holiday"])
    joined = forecasts.join(sold, ["store", "dept", "week"], join_type="inner")
    ordered = joined.sort_by([(name, "ascending") for name in ("week", "store", "dept")])
    return ordered.add_column(0, "origin", pa.array([origin] * ordered.num_rows, pa.date32()))


def wmae(rows: pa.Table) -> dict[str, float]:
    """The WMAE in dollars of the model and of each naive forecast over ``rows`` of ``replay``."""
    actual, holiday = floats(rows, "weekly_sales"), floats(rows, "is_holiday")
    columns = {MODEL: "forecast", **{name: name for name in NAIVE}}
    return {name: evaluate(actual, floats(rows, column), holiday)["wmae"] for name, column in columns.items()}
