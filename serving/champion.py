"""The champion as the service holds it: loaded, checked against the features that there are, and warmed up."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from feature_repo.features import (
    ENTITY_KEYS,
    FRAME_FEATURES,
    LABEL,
    SALES_WINDOW,
    TIMESTAMP,
    WINDOW_WEEKS,
    Feature,
    FeatureType,
)
from serving.forecasting import BLOCK_ROWS, service_for
from trainer.bundle import bundle_hash, load_model
from trainer.errors import BundleError, TrainerError
from trainer.forecaster import Forecaster

_TYPES: dict[FeatureType, pa.DataType] = {
    "float64": pa.float64(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "bool": pa.bool_(),
    "string": pa.string(),
    "float64[]": pa.list_(pa.float64()),
}
_SERVED: tuple[Feature, ...] = tuple(each for each in FRAME_FEATURES + SALES_WINDOW if each.name != LABEL)
_WARM_UP_BLOCKS = 3


@dataclass(frozen=True, slots=True)
class Champion:
    """A model that is ready to forecast.

    Attributes:
        name: of its bundle.
        version: the hash of its bundle.
        model: the model.
        service: the feature service that it reads.
    """

    name: str
    version: str
    model: Forecaster
    service: str


def load_champion(bundle: Path) -> Champion:
    """Load, check and warm up the model of a bundle.

    Raises:
        BundleError: the bundle is incomplete or damaged, needs features that are not served, or does not forecast.
    """
    try:
        version = bundle_hash(bundle)
        model = load_model(bundle)
        columns = model.encoder.columns
        offered = {*ENTITY_KEYS, TIMESTAMP, *(feature.name for feature in _SERVED)}
        if missing := sorted(set(columns) - offered):
            raise BundleError(f"it reads features that are not served: {', '.join(missing)}")
        _warm_up(model)
    except FileNotFoundError as error:
        raise BundleError(f"bundle {bundle.name} is refused: {error.filename} is missing") from error
    except TrainerError as error:
        raise BundleError(f"bundle {bundle.name} is refused: {error}") from error
    except (KeyError, TypeError, ValueError, RuntimeError, OSError) as error:  # whatever a damaged file leads to
        raise BundleError(f"bundle {bundle.name} is refused: {type(error).__name__}: {error}") from error
    return Champion(bundle.name, version, model, service_for(columns))


def _warm_up(model: Forecaster) -> None:
    """Forecast rows with missing and with ordinary values, so that the first request does not pay for it."""
    for _ in range(_WARM_UP_BLOCKS):
        quantiles = model.predict_quantiles(_made_up_rows(), block_rows=BLOCK_ROWS)
        if not (np.isfinite(quantiles).all() and (np.diff(quantiles, axis=1) >= 0).all()):
            raise BundleError("its forecasts of made-up rows are not finite and ascending")


def _made_up_rows() -> pa.Table:
    rows = BLOCK_ROWS
    half = pa.array([True, False] * (rows // 2))
    columns = {key: pa.array(range(1, rows + 1), pa.int64()) for key in ENTITY_KEYS}
    for feature in _SERVED:
        type_ = _TYPES[feature.type]
        ordinary = [1.0] * WINDOW_WEEKS if feature.type == "float64[]" else pa.scalar(1).cast(type_).as_py()
        values = pa.array([ordinary] * rows, type_)
        columns[feature.name] = pa.compute.if_else(half, values, pa.scalar(None, type_)) if feature.nullable else values
    week = pa.scalar(0, pa.timestamp("us", "UTC"))
    return pa.table({**columns, TIMESTAMP: pa.repeat(week, rows)})
