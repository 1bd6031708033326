"""The Open Inference Protocol, version 2, over HTTP: what KServe and its clients speak.

The model takes two tensors, ``store`` and ``dept`` (INT64, of one length), and gives one row per pair.
"""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

from feature_repo.features import ENTITY_KEYS
from serving.api import as_rows
from serving.engine import Engine
from serving.forecasting import QUANTILES
from serving.messages import Key
from serving.metrics import Metrics
from serving.settings import MAX_ROWS, Settings

VERSION = "2"
_INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")

Row = dict[str, Any]
_Output = tuple[str, Callable[[Row], Any], list[int]]
_OUTPUTS: dict[str, _Output] = {
    "forecast": ("FP64", lambda row: row["forecast"], []),
    "quantiles": ("FP64", lambda row: [row["quantiles"] and row["quantiles"][name] for name in QUANTILES], [3]),
    "status": ("BYTES", lambda row: row["status"], []),
    "week": ("BYTES", lambda row: row["week"] or "", []),
    "feature_timestamp": ("BYTES", lambda row: row["feature_timestamp"] or "", []),
}

Integers = Annotated[list[Key], Field(min_length=1, max_length=MAX_ROWS)]
Column = Annotated[
    list[Annotated[list[Key], Field(min_length=1, max_length=1)]], Field(min_length=1, max_length=MAX_ROWS)
]


class InputTensor(BaseModel):
    """One tensor of keys, flat or as one column."""

    name: Literal["store", "dept"]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=MAX_ROWS)]], Field(min_length=1, max_length=2)]
    datatype: Literal["INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"]
    data: Integers | Column
    parameters: dict[str, Any] | None = None


class OutputRequest(BaseModel):
    """A tensor that is wanted."""

    name: Literal["forecast", "quantiles", "status", "week", "feature_timestamp"]
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """The keys to forecast."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [
                        {"name": "store", "shape": [2], "datatype": "INT64", "data": [1, 1]},
                        {"name": "dept", "shape": [2], "datatype": "INT64", "data": [1, 2]},
                    ]
                }
            ]
        }
    )

    id: str | None = None
    parameters: dict[str, Any] | None = None
    inputs: Annotated[list[InputTensor], Field(min_length=2, max_length=2)]
    outputs: list[OutputRequest] | None = None


def routes(engine: Engine, settings: Settings, metrics: Metrics) -> APIRouter:
    """The routes of the protocol, under ``/v2``."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    @router.get("")
    async def server() -> dict[str, Any]:
        """The server's metadata."""
        return {"name": "serving", "version": VERSION, "extensions": []}

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Whether the process answers."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready(response: Response) -> dict[str, bool]:
        """Whether there is a model to answer with."""
        response.status_code = 200 if engine.ready else 503
        return {"ready": engine.ready}

    @router.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """The model's metadata: its inputs, its outputs and its version."""
        _require(name, settings)
        champion = engine.champion
        return {
            "name": name,
            "versions": [champion.version] if champion else [],
            "platform": "pytorch",
            "inputs": [{"name": key, "datatype": "INT64", "shape": [-1]} for key in ENTITY_KEYS],
            "outputs": [
                {"name": output, "datatype": datatype, "shape": [-1, *shape]}
                for output, (datatype, _, shape) in _OUTPUTS.items()
            ],
        }

    @router.get("/models/{name}/ready")
    async def model_ready(name: str, response: Response) -> dict[str, Any]:
        """Whether the model can be asked."""
        _require(name, settings)
        response.status_code = 200 if engine.ready else 503
        return {"name": name, "ready": engine.ready}

    @router.post("/models/{name}/infer")
    async def infer(name: str, request: InferRequest) -> Response:
        """Forecast; a row without a forecast has null in its numbers, and says why in ``status``."""
        _require(name, settings)
        tensors: dict[str, list[int]] = {tensor.name: _values(tensor) for tensor in request.inputs}
        if missing := [key for key in ENTITY_KEYS if key not in tensors]:
            raise HTTPException(400, f"inputs: {', '.join(missing)} is missing")
        stores, depts = (tensors[key] for key in ENTITY_KEYS)
        if len(stores) != len(depts):
            raise HTTPException(400, f"inputs: store has {len(stores):,} rows and dept {len(depts):,}")
        keys = list(zip(stores, depts, strict=True))
        answer = await engine.forecast(keys)
        with metrics.timed("answer"):
            rows = as_rows(keys, answer, settings, metrics)
            wanted = [each.name for each in request.outputs] if request.outputs else list(_OUTPUTS)
            body = {
                "model_name": name,
                "model_version": answer.champion.version,
                **({"id": request.id} if request.id is not None else {}),
                "outputs": [_tensor(output, rows) for output in wanted],
            }
            return Response(json.dumps(body), media_type="application/json")

    return router


def _require(name: str, settings: Settings) -> None:
    if name != settings.model_name:
        raise HTTPException(404, f"no such model: {name}; this service has {settings.model_name}")


def _values(tensor: InputTensor) -> list[int]:
    flat = [value for part in tensor.data for value in (part if isinstance(part, list) else [part])]
    rows = tensor.shape[0] * (tensor.shape[1] if len(tensor.shape) > 1 else 1)
    if len(flat) != rows:
        raise HTTPException(400, f"inputs: {tensor.name} has {len(flat):,} values, its shape says {rows:,}")
    return flat


def _tensor(name: str, rows: list[Row]) -> dict[str, Any]:
    datatype, value, shape = _OUTPUTS[name]
    data = [value(row) for row in rows]
    flat = [part for each in data for part in each] if shape else data
    return {"name": name, "datatype": datatype, "shape": [len(rows), *shape], "data": flat}
