"""The application: what each process of the service runs."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from serving import api, protocol
from serving.engine import Engine
from serving.errors import BusyError, UnavailableError
from serving.features import Features
from serving.gate import RETRY_AFTER, Gate
from serving.keeper import Keeper
from serving.metrics import Metrics
from serving.settings import Settings

_UNION_TAGS = {"one", "many"}


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service, by default as ``SERVING_*`` in the environment say."""
    settings = settings or Settings.from_environment()
    metrics = Metrics(shared=settings.workers > 1)
    features = Features(settings)
    engine = Engine(settings, features, metrics)
    keeper = Keeper(settings, engine, features, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # Rows are forecast in small blocks: more threads would wait for each other.
        torch.set_num_threads(1)
        # Before the first request is let in: where there are several workers, the others can answer until then.
        await keeper.look()
        # What is loaded by now stays: looking through it for garbage again and again would stop requests.
        gc.collect()
        gc.freeze()
        following = asyncio.create_task(keeper.run())
        yield
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
        engine.close()
        features.close()

    app = FastAPI(
        title="Weekly demand forecasts",
        description="Next week's sales of a store's department, from its features in the online store.",
        version="1",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.include_router(api.routes(engine, settings, metrics))
    app.include_router(protocol.routes(engine, settings, metrics))

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input, which may be all of a large body.
        found = [
            {"loc": [part for part in each["loc"] if part not in _UNION_TAGS], "msg": each["msg"], "type": each["type"]}
            for each in error.errors()
        ]
        first = found[0]
        sent = first["loc"][0] == "body" and first["type"] != "missing"
        if sent and "json" not in request.headers.get("Content-Type", "").lower():
            return _problem(request, 415, "a body is read only with the header Content-Type: application/json")
        if _is_protocol(request):
            where = ".".join(str(part) for part in first["loc"])
            return JSONResponse({"error": f"{where}: {first['msg']}"}, 400)
        return JSONResponse({"detail": found}, 422)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return _problem(request, error.status_code, error.detail, error.headers)

    @app.exception_handler(UnavailableError)
    async def unavailable(request: Request, error: UnavailableError) -> JSONResponse:
        return _problem(request, 503, str(error), RETRY_AFTER)

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        return _problem(request, 429, str(error), RETRY_AFTER)

    app.add_middleware(Gate, settings=settings, metrics=metrics)
    return app


def _problem(request: Request, status: int, detail: Any, headers: Any = None) -> JSONResponse:
    name = "error" if _is_protocol(request) else "detail"
    return JSONResponse({name: detail}, status, headers)


def _is_protocol(request: Request) -> bool:
    return request.url.path.startswith("/v2/")
