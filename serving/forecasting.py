"""From features to forecasts: the one path that the service and the batch of all series share.

A matrix product of another shape may add its terms in another order, so a row's forecast depends, in its last bits, on
how many rows are computed beside it. Rows are therefore always computed in blocks of one size, the last one filled up:
a series gets the same number alone and among all others.
"""

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import (
    INFERENCE_SERVICE,
    SALES_WINDOW,
    SEQUENCE_SERVICE,
    SERIES_VIEWS,
    TIMESTAMP,
    VIEWS,
    names,
)
from feature_repo.online_reader import OnlineFeatures
from trainer.forecaster import Forecaster

Floats = npt.NDArray[np.float64]

BLOCK_ROWS = 64
QUANTILES = ("p10", "p50", "p90")
_SERIES_VIEW = "sales_history_features"
_NEVER_MISSING = tuple(feature.name for view in VIEWS for feature in view.features if not feature.nullable)


class Status(enum.StrEnum):
    """What became of one key."""

    OK = "ok"
    UNKNOWN = "unknown series"
    RENEWING = "features are being renewed"


@dataclass(frozen=True, slots=True)
class Forecasts:
    """One row per key that was asked for, in that order; values of a row that is not ``OK`` are missing.

    Attributes:
        statuses: a ``Status`` each.
        quantiles: dollars that 10, 50 and 90 % of the sales are expected below. The middle one is the forecast.
        weeks: the week that is forecast, midnight UTC.
        feature_times: the time that the oldest of the features is of, those of the store included.
    """

    statuses: list[Status]
    quantiles: Floats
    weeks: pa.Array
    feature_times: pa.Array


def service_for(columns: tuple[str, ...]) -> str:
    """The feature service that offers what a model reads.

    Args:
        columns: of the tables that the model forecasts.
    """
    return SEQUENCE_SERVICE if set(columns) & set(names(SALES_WINDOW)) else INFERENCE_SERVICE


def forecast(model: Forecaster, features: OnlineFeatures) -> Forecasts:
    """Forecast the series whose features were read, each for the week that its features are of.

    A series is unknown where one of the feature views lacks it, as one that is not live any more. Where its views are
    of different weeks, as when they are written one by one, they are not put together: it is being renewed. So it is
    where a feature is missing that never is, as between a change of its definition and the next materialization.
    """
    weeks = features.event_times[_SERIES_VIEW]
    known = np.ones(features.table.num_rows, dtype=np.bool_)
    whole = known.copy()
    for view, times in features.event_times.items():
        known &= _mask(times.is_valid())
        if view in SERIES_VIEWS:
            whole &= _mask(pc.fill_null(pc.equal(times, weeks), False))
    for name in set(_NEVER_MISSING) & set(features.table.column_names):
        if features.table[name].null_count:
            whole &= _mask(features.table[name].is_valid())
    usable = known & whole
    quantiles = np.full((len(usable), len(QUANTILES)), np.nan)
    if usable.any():
        table = features.table.append_column(TIMESTAMP, weeks)
        table = table if usable.all() else table.filter(pa.array(usable))
        quantiles[usable] = model.predict_quantiles(table, block_rows=BLOCK_ROWS)
    # As numbers: there is no such function of times with a zone.
    moments = [times.cast(pa.int64()) for times in features.event_times.values()]
    oldest = pc.min_element_wise(*moments, skip_nulls=False).cast(weeks.type)
    shown = pa.array(usable)
    return Forecasts(
        statuses=[_status(*flags) for flags in zip(known.tolist(), whole.tolist(), strict=True)],
        quantiles=quantiles,
        weeks=pc.if_else(shown, weeks, None),
        feature_times=pc.if_else(shown, oldest, None),
    )


def _status(known: bool, whole: bool) -> Status:
    if not known:
        return Status.UNKNOWN
    return Status.OK if whole else Status.RENEWING


def _mask(flags: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(flags.to_numpy(zero_copy_only=False), dtype=np.bool_)
