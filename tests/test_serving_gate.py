"""Who is let in: by key, by number, by size; and settings that cannot be used are refused by name."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from serving.app import create_app
from serving.gate import Gate
from serving.metrics import Metrics
from serving.settings import Settings

KEY = "only-for-these-tests"


def talk(app: Any, conversation: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """What a client of the application gets to hear."""

    async def run() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://service") as client:
            return await conversation(client)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": KEY[:-1]}, 401),
        ({"X-API-Key": "schlüssel".encode()}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"X-API-Key": KEY}, 503),
        ({"Authorization": f"Bearer {KEY}"}, 503),
    ],
)
def test_only_who_brings_the_key_is_let_in(headers: dict[str, Any], status: int) -> None:
    app = create_app(Settings(api_key=KEY))  # without a model: 503 is as far as one comes
    response = talk(app, lambda client: client.get("/forecasts/1/1", headers=headers))
    assert response.status_code == status
    assert KEY not in response.text


def test_probes_and_scrapers_need_no_key() -> None:
    app = create_app(Settings(api_key=KEY))
    paths = ("/v2/health/live", "/v2/health/ready", "/metrics", "/v2")

    async def look(client: httpx.AsyncClient) -> list[int]:
        return [(await client.get(path)).status_code for path in paths]

    assert talk(app, look) == [200, 503, 200, 401]


def test_more_requests_than_allowed_are_told_to_come_again() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.2)
        await PlainTextResponse("done")(scope, receive, send)

    async def five(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.get("/predict") for _ in range(5)))

    answers = talk(Gate(slow, Settings(max_requests=2), Metrics()), five)

    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429]
    assert answers[-1].headers["retry-after"] == "1"


def test_a_body_that_does_not_come_in_time_is_given_up() -> None:
    async def stuck() -> Any:
        yield b"["
        await asyncio.sleep(30)

    app = create_app(Settings(request_seconds=0.1))
    headers = {"Content-Type": "application/json"}
    assert talk(app, lambda client: client.post("/predict", content=stuck(), headers=headers)).status_code == 408


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SERVING_HOST": "192.0.2.1"}, "SERVING_API_KEY is not set: set a key, or listen on 127.0.0.1"),
        ({"SERVING_PORT": "http"}, "SERVING_PORT is 'http', which is not a number"),
        ({"SERVING_PORT": "0"}, "SERVING_PORT is 0: it must be above 0"),
        ({"SERVING_ON_STALE": "ignore"}, "SERVING_ON_STALE is 'ignore': it must be one of warn, refuse"),
        ({"SERVING_KEY": "x"}, "SERVING_KEY is no setting of the service: known are SERVING_HOST"),
        ({"SERVING_MAX_ROWS": "100"}, "SERVING_MAX_ROWS is 100: one request may already have 10,000"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(variables: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.from_environment(variables)


def test_settings_come_from_the_environment_and_do_not_show_the_key() -> None:
    settings = Settings.from_environment({"SERVING_HOST": "::", "SERVING_API_KEY": KEY, "SERVING_WORKERS": "2"})
    assert (settings.host, settings.api_key, settings.workers, settings.port) == ("::", KEY, 2, 8080)
    assert KEY not in repr(settings)
