"""What every request passes: the key, the number of requests at once, the size of the body, and the count."""

import asyncio
import hmac
from time import perf_counter
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.metrics import Metrics
from serving.settings import Settings

RETRY_AFTER = {"Retry-After": "1"}
# Probes, scrapers and readers of the documentation have no key.
_OPEN = ("/v2/health/", "/metrics", "/docs", "/openapi.json")


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._in_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                await refusal(scope, receive, counted)
            elif scope["path"].startswith(_OPEN):
                await self._app(scope, receive, counted)
            else:
                self._in_work += 1
                self._metrics.in_work.inc()
                try:
                    await self._app(scope, self._bounded(receive), counted)
                finally:
                    self._in_work -= 1
                    self._metrics.in_work.dec()
        finally:
            # Paths that are no route's would be labels without number.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.request.labels(route).observe(perf_counter() - started)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if scope["path"].startswith(_OPEN):
            return None
        headers = Headers(scope=scope)
        if self._settings.api_key and not _brings(headers, self._settings.api_key):
            return _json(
                401, "send the service's key as X-API-Key, or as a bearer token", {"WWW-Authenticate": "Bearer"}
            )
        if self._in_work >= self._settings.max_requests:
            return _json(429, f"{self._in_work} requests are being answered: try again in a moment", RETRY_AFTER)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._settings.max_body_bytes:
            return _json(413, self._too_large())
        return None

    def _bounded(self, receive: Receive) -> Receive:
        """``receive`` for a body that is neither too large nor too slow."""
        size, complete = 0, False

        async def bounded() -> Message:
            nonlocal size, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(self._settings.request_seconds):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the body did not arrive in time") from None
            size += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if size > self._settings.max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return bounded

    def _too_large(self) -> str:
        return f"the body may have {self._settings.max_body_bytes:,} bytes: split the request"


def _brings(headers: Headers, key: str) -> bool:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    given = headers.get("x-api-key") or (token if scheme.lower() == "bearer" else "")
    return hmac.compare_digest(given.encode(), key.encode())


def _json(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    content: Any = {"detail": detail}
    return JSONResponse(content, status, headers)
