"""How good past forecasts were, now that the weeks they were made for have been sold."""

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trainer.baselines import naive_forecasts
from trainer.metrics import evaluate

Floats = npt.NDArray[np.float64]

SCOPES = ("week", "store", "dept")
SCORES = pa.schema(
    [("scope", pa.string()), ("key", pa.string()), ("rows", pa.int64())]
    + [(name, pa.float64()) for name in ("wmae", "mae", "rmse", "wape", "mape", "bias", "coverage")]
)


def score(rows: pa.Table) -> dict[str, float]:
    """Score the forecasts in ``rows``.

    Args:
        rows: weekly_sales, forecast, p10 and p90 in dollars (the last two may be missing), and is_holiday.

    Returns:
        wmae, mae, rmse, wape, mape: as ``trainer.metrics``.
        bias: a fraction, sum(forecast - sales) / sum|sales|; above 0, too much was forecast.
        coverage: share of the sales from p10 to p90, of the rows that have both; NaN where none has.
    """
    actual, forecast = floats(rows, "weekly_sales"), floats(rows, "forecast")
    low, high = floats(rows, "p10"), floats(rows, "p90")
    has_interval = ~np.isnan(low) & ~np.isnan(high)
    within = (low <= actual) & (actual <= high)
    total = float(np.abs(actual).sum())
    return {
        **evaluate(actual, forecast, floats(rows, "is_holiday")),
        "bias": float((forecast - actual).sum()) / total if total else 0.0,
        "coverage": float(within[has_interval].mean()) if has_interval.any() else float("nan"),
    }


def score_naive(rows: pa.Table) -> dict[str, float]:
    """The WMAE in dollars of each naive forecast of ``rows``, from the feature columns it needs."""
    actual, holiday = floats(rows, "weekly_sales"), floats(rows, "is_holiday")
    return {name: evaluate(actual, naive, holiday)["wmae"] for name, naive in naive_forecasts(rows).items()}


def score_by_scope(rows: pa.Table) -> pa.Table:
    """``score`` of all rows, and of those of each week, store and department.

    Returns:
        scope, key (text), rows, and the scores; one row for scope ``all``.
    """
    scored = [{"scope": "all", "key": "all", "rows": rows.num_rows, **score(rows)}]
    scored += [
        {"scope": scope, "key": str(value), "rows": part.num_rows, **score(part)}
        for scope in SCOPES
        for value, part in parts_by(rows, scope)
    ]
    return pa.Table.from_pylist(scored, schema=SCORES)


def parts_by(rows: pa.Table, column: str) -> Iterator[tuple[Any, pa.Table]]:
    """Each value of ``column``, in order, and its rows."""
    for value in sorted(pc.unique(rows[column]).to_pylist()):
        yield value, rows.filter(pc.equal(rows[column], pa.scalar(value, rows[column].type)))


def last_weeks(rows: pa.Table, weeks: int) -> pa.Table:
    """The rows of the last ``weeks`` weeks that have any."""
    newest: Sequence[datetime.date] = sorted(pc.unique(rows["week"]).to_pylist())[-weeks:]
    return rows.filter(pc.is_in(rows["week"], value_set=pa.array(newest, pa.date32())))


def floats(table: pa.Table, name: str) -> Floats:
    """A numeric or boolean column as float64; null becomes NaN."""
    return np.asarray(table[name].cast(pa.float64()).to_numpy(), dtype=np.float64)
