"""The obvious model service, for ``benchmarks.serving`` to compare with.

FastAPI calls stock Feast's ``get_online_features``, which computes the on-demand features in pandas at each request,
and then the model.
"""

import os
from time import perf_counter
from typing import Any

import pyarrow as pa
import torch
from fastapi import FastAPI

from benchmarks.full_size import stock_store
from benchmarks.online import SERVICE, on_demand_definitions
from feature_repo.database import connect_settings
from feature_repo.definitions import ENTITIES, sales_history_features, store_external_features
from feature_repo.features import TIMESTAMP
from trainer.bundle import load_model

BUNDLE = "OBVIOUS_BUNDLE"


def create_app() -> FastAPI:
    """The service of the bundle named in the environment."""
    store = stock_store(connect_settings())
    store.apply([*ENTITIES, sales_history_features, store_external_features, *on_demand_definitions()])
    service, model = store.get_feature_service(SERVICE), load_model(os.environ[BUNDLE])
    torch.set_num_threads(1)  # as ours, so that a forecast costs the same on both sides
    app = FastAPI()

    @app.post("/predict")
    def predict(series: dict[str, int] | list[dict[str, int]]) -> list[dict[str, Any]]:
        rows = series if isinstance(series, list) else [series]
        started = perf_counter()
        table = store.get_online_features(features=service, entity_rows=rows).to_arrow(include_event_timestamps=True)
        week = table["is_holiday__ts"].cast(pa.timestamp("s", "UTC")).cast(pa.timestamp("us", "UTC"))
        read = perf_counter()
        forecast = model.predict(table.append_column(TIMESTAMP, week))
        seconds = {"features": read - started, "model": perf_counter() - read}
        return [{**row, "forecast": float(dollars), **seconds} for row, dollars in zip(rows, forecast, strict=True)]

    @app.get("/ready")
    def ready() -> bool:
        return True

    return app
