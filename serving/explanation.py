"""Which inputs moved a forecast: each is taken away in turn, and the forecast compared.

Occlusion: what an input moves is the forecast less the forecast without that input (its value missing, the others as
they are). Effects of inputs that say the same overlap, so they do not add up to the whole.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.features import ENTITY_KEYS, TIMESTAMP
from feature_repo.online_reader import OnlineFeatures
from serving.forecasting import BLOCK_ROWS, Forecasts, Status
from trainer.forecaster import Forecaster

USUAL_LEVEL = "sales_rolling_mean_12"
SHOWN = 5
_FORECAST = 1


@dataclass(frozen=True, slots=True)
class Influence:
    """What one input moved.

    Attributes:
        feature: the input.
        value: what it was; None where it is missing, and for an array, such as a year of sales.
        dollars: the forecast less the forecast without it.
    """

    feature: str
    value: Any
    dollars: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a forecast is what it is.

    Attributes:
        usual_level: mean sales in dollars of the 12 weeks before; None for a series that had none.
        influences: the inputs that moved the forecast most, the strongest first.
    """

    usual_level: float | None
    influences: list[Influence]


def explain(model: Forecaster, features: OnlineFeatures, forecasts: Forecasts) -> list[Explanation]:
    """An explanation per row; an empty one for a row without a forecast."""
    inputs = [name for name in dict.fromkeys(model.encoder.columns) if name not in {*ENTITY_KEYS, TIMESTAMP}]
    table = features.table.append_column(TIMESTAMP, forecasts.weeks)
    explanations = []
    for row, status in enumerate(forecasts.statuses):
        if status is not Status.OK:
            explanations.append(Explanation(None, []))
            continue
        one = table.slice(row, 1)
        variants = pa.concat_tables([_without(one, name) for name in inputs])
        without = model.predict_quantiles(variants, block_rows=BLOCK_ROWS)[:, _FORECAST]
        effects = forecasts.quantiles[row, _FORECAST] - without
        order = np.argsort(-np.abs(effects), kind="stable")[:SHOWN]
        influences = [
            Influence(inputs[n], _shown(one[inputs[n]][0].as_py()), float(effects[n])) for n in order if effects[n] != 0
        ]
        explanations.append(Explanation(one[USUAL_LEVEL][0].as_py(), influences))
    return explanations


def _shown(value: Any) -> Any:
    return None if isinstance(value, list) else value


def _without(row: pa.Table, name: str) -> pa.Table:
    position = row.column_names.index(name)
    return row.set_column(position, name, pa.nulls(1, row.schema.field(name).type))
