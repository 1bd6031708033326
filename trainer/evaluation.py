"""How good a model's forecasts and quantiles are: over all rows, by department and by week.

Shapes: N rows, Q quantiles.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.frame import floats
from trainer.level import Floats
from trainer.metrics import evaluate, interval_scores
from trainer.spec import TrainSpec


@dataclass(kw_only=True, slots=True, frozen=True)
class Evaluation:
    """The scores of quantile forecasts of one set of rows; JSON values.

    scores: `trainer.metrics.evaluate` of the median.
    interval: `trainer.metrics.interval_scores` of the outer quantiles.
    by_group, by_week: rows, dollars sold, and both kinds of scores, for each group (as text) and week (YYYY-MM-DD).
    """

    scores: dict[str, float]
    interval: dict[str, float]
    by_group: dict[str, dict[str, float]]
    by_week: dict[str, dict[str, float]]

    @classmethod
    def of(cls, table: pa.Table, quantile_NQ: Floats, spec: TrainSpec) -> "Evaluation":
        """Score forecasts, in dollars, of the rows of `table`."""
        actual_N, is_holiday_N = floats(table, spec.label), floats(table, spec.holiday)

        def scored(chosen_N: Any) -> tuple[dict[str, float], dict[str, float]]:
            low_n, forecast_n, high_n = quantile_NQ[chosen_N].T
            actual_n = actual_N[chosen_N]
            return evaluate(actual_n, forecast_n, is_holiday_N[chosen_N]), interval_scores(actual_n, low_n, high_n)

        def split(label_N: Any) -> dict[str, dict[str, float]]:
            labels, of_N = np.unique(label_N, return_inverse=True)
            parts = {}
            for number, label in enumerate(labels):
                chosen_N = of_N == number
                scores, interval = scored(chosen_N)
                totals = {"rows": int(chosen_N.sum()), "sales": float(actual_N[chosen_N].sum())}
                parts[str(label)] = {**totals, **scores, **interval}
            return parts

        scores, interval = scored(slice(None))
        return cls(
            scores=scores,
            interval=interval,
            by_group=split(np.asarray(table[spec.group].cast(pa.string()).to_numpy(), dtype=str)),
            by_week=split(np.asarray(pc.strftime(table[spec.timestamp], "%Y-%m-%d").to_numpy(), dtype=str)),
        )
