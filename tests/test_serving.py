"""The service answers with the numbers of ``weekly_forecasts``, and every bad request with what is wrong with it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import dagster as dg
import httpx
import hypothesis
import hypothesis.strategies as st
import psycopg
import pytest
import schemathesis
from serving_example import Installation, Service, ask, forecasts_of, installed, serving

from forecast_assets.assets.forecasts import weekly_forecasts
from forecast_assets.resources import Artifacts, FeastStore, Postgres
from serving.app import create_app
from serving.settings import Settings
from trainer.bundle import bundle_hash

# Raised by Dagster about its own resources that hold resources.
pytestmark = pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run is deprecated:DeprecationWarning")

UNKNOWN = {"store": 999, "dept": 1}
_NAMES = ["store", "dept", "inputs", "outputs", "name", "shape", "datatype", "data", "id"]


@pytest.fixture(scope="module")
def installation(small_drop: Path) -> Iterator[Installation]:
    with installed(small_drop, first={}, sequence={"model_type": "tft"}) as installation:
        yield installation


@pytest.fixture(scope="module")
def service(installation: Installation) -> Iterator[Service]:
    with serving(installation) as service:
        yield service


@pytest.mark.parametrize("champion", ["sequence", "first"])
def test_every_series_gets_the_numbers_of_weekly_forecasts_alone_and_with_others(
    service: Service, installation: Installation, monkeypatch: pytest.MonkeyPatch, champion: str
) -> None:
    bundle = installation.models.bundle(champion)
    installation.models.promote(bundle)
    service.until(lambda: service.version() == bundle_hash(bundle))
    for name, value in installation.environment.items():
        monkeypatch.setenv(name, value)
    postgres = Postgres()
    resources = {"postgres": postgres, "feast": FeastStore(postgres=postgres), "artifacts": Artifacts()}
    assert dg.materialize([weekly_forecasts], resources=resources).success
    expected = forecasts_of(installation)

    together = ask(service, installation.keys).json()
    alone = [ask(service, key).json() for key in installation.keys]
    some = [row for n in range(0, len(together), 7) for row in ask(service, installation.keys[n : n + 7]).json()]

    for rows in (together, alone, some):
        found = {
            (row["store"], row["dept"]): (*row["quantiles"].values(), row["model_version"], row["week"]) for row in rows
        }
        assert found == expected
        assert [row["forecast"] for row in rows] == [row["quantiles"]["p50"] for row in rows]


def test_the_same_through_get_and_through_the_inference_protocol(service: Service, installation: Installation) -> None:
    key = installation.keys[5]
    row = ask(service, key).json()
    tensors = [
        {"name": "dept", "shape": [2, 1], "datatype": "INT64", "data": [[key["dept"]], [UNKNOWN["dept"]]]},
        {"name": "store", "shape": [2], "datatype": "INT32", "data": [key["store"], UNKNOWN["store"]]},
    ]
    answer = service.client.post("/v2/models/demand-forecast/infer", json={"id": "7", "inputs": tensors}).json()

    outputs = {each["name"]: each["data"] for each in answer["outputs"]}
    assert service.client.get(f"/forecasts/{key['store']}/{key['dept']}").json() == row
    assert (answer["id"], answer["model_version"]) == ("7", row["model_version"])
    assert outputs["forecast"] == [row["forecast"], None]
    assert outputs["quantiles"] == [*row["quantiles"].values(), None, None, None]
    assert outputs["status"] == ["ok", "unknown series"]
    metadata = service.client.get("/v2/models/demand-forecast").json()
    assert [each["name"] for each in metadata["outputs"]] == list(outputs)
    assert service.client.get("/v2/models/other").json() == {
        "error": "no such model: other; this service has demand-forecast"
    }


def test_an_unknown_series_is_named_and_in_a_list_marked(service: Service, installation: Installation) -> None:
    refused = ask(service, UNKNOWN)
    rows = ask(
        service, [UNKNOWN, installation.keys[0], {"store": installation.keys[0]["store"], "dept": 98_765}]
    ).json()

    assert (refused.status_code, refused.json()) == (404, {"detail": "no such series: store 999, dept 1"})
    assert [row["status"] for row in rows] == ["unknown series", "ok", "unknown series"]
    assert [row["forecast"] is None for row in rows] == [True, False, True]


def test_features_of_different_weeks_are_not_put_together(service: Service, installation: Installation) -> None:
    key = installation.keys[2]
    table = "feast_online.demand_forecasting_temporal_transformations"
    move = f"UPDATE {table} SET event_ts = event_ts + %s * interval '1 day' WHERE (store, dept) = (%s, %s)"
    right = ask(service, key).json()
    with psycopg.connect(installation.settings.url, autocommit=True) as connection:
        connection.execute(move, [-7, *key.values()])
        one, rows = ask(service, key), ask(service, installation.keys[:4]).json()
        connection.execute(move, [7, *key.values()])

    assert (one.status_code, one.headers["retry-after"]) == (503, "2")
    assert [row["status"] for row in rows] == ["ok", "ok", "features are being renewed", "ok"]
    assert rows[2]["forecast"] is None
    assert ask(service, key).json() == right


def test_old_features_are_said_to_be_old(service: Service, installation: Installation) -> None:
    row = ask(service, installation.keys[0]).json()
    assert row["warning"].startswith("the features are of 2012-11-02, ")
    assert row["feature_timestamp"] == "2012-11-02T00:00:00Z"


def test_an_explanation_gives_the_inputs_that_moved_the_forecast_most(
    service: Service, installation: Installation
) -> None:
    plain, explained = (
        ask(service, installation.keys[3]).json(),
        ask(service, installation.keys[3], explain=True).json(),
    )

    explanation = explained.pop("explanation")
    assert explained == plain
    effects = [abs(each["dollars"]) for each in explanation["influences"]]
    assert effects == sorted(effects, reverse=True)
    assert 1 <= len(effects) <= 5
    assert len({each["feature"] for each in explanation["influences"]}) == len(effects)
    assert ask(service, installation.keys[:11], explain=True).status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"store": 1}, ["body", "dept"]),
        ({"store": 1, "dept": "1"}, ["body", "dept"]),
        ({"store": True, "dept": 1}, ["body", "store"]),
        ({"store": 1, "dept": -1}, ["body", "dept"]),
        ({"store": 2**63, "dept": 1}, ["body", "store"]),
        ({"store": 1, "dept": 1, "week": 3}, ["body", "week"]),
        ([{"store": 1, "dept": 1}, {"store": 1.5, "dept": 1}], ["body", 1, "store"]),
        ([], ["body"]),
        ([{"store": 1, "dept": 1}] * 10_001, ["body"]),
        ("nothing", ["body"]),
        (None, ["body"]),
    ],
)
def test_a_bad_request_is_told_which_field(service: Service, body: Any, field: list[Any]) -> None:
    response = ask(service, body)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == field
    assert len(response.content) < 1_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=3), inner),
    max_leaves=12,
)


@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(JSON, st.sampled_from(["/predict", "/predict?explain=true", "/v2/models/demand-forecast/infer"]))
def test_no_body_makes_the_service_fail(service: Service, body: Any, path: str) -> None:
    response = service.client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert response.status_code in (200, 400, 404, 422)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_no_request_made_up_from_the_documentation_makes_the_service_fail(service: Service) -> None:
    schema = schemathesis.openapi.from_url(str(service.client.base_url.join("/openapi.json")))
    operations: list[Any] = [cast("Any", result).ok() for result in schema.get_all_operations()]
    assert len(operations) >= 8

    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @hypothesis.settings(max_examples=12, suppress_health_check=list(hypothesis.HealthCheck))
            @hypothesis.given(operation.as_strategy(generation_mode=mode))
            def never_fails(case: Any) -> None:
                assert case.call().status_code < 500

            with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # what takes nothing cannot be given it wrong
                never_fails()


def test_bodies_that_are_too_large_or_no_json_are_refused(service: Service) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b"[" * 100_000

    headers = {"Content-Type": "application/json"}
    assert service.client.post("/predict", content=b" " * 2_000_001, headers=headers).status_code == 413
    assert service.client.post("/predict", content=pieces(), headers=headers).status_code == 413
    assert service.client.post("/predict", content=b"[" * 100_000, headers=headers).status_code in (400, 422)
    assert service.client.post("/predict", content=b"9" * 10_000, headers=headers).status_code in (400, 422)


@pytest.mark.parametrize("path", ["/predict", "/v2/models/demand-forecast/infer"])
def test_a_body_that_is_not_said_to_be_json_is_told_the_header_it_needs(service: Service, path: str) -> None:
    for headers in ({}, {"Content-Type": "application/x-www-form-urlencoded"}):
        response = service.client.post(path, content=b'{"store": 1, "dept": 1}', headers=headers)
        assert response.status_code == 415
        assert "Content-Type: application/json" in response.text
    said = {"Content-Type": "Application/JSON"}
    assert service.client.post(path, content=b'{"store": []}', headers=said).status_code in (400, 422)


def test_metrics_count_rows_and_name_the_model(service: Service, installation: Installation) -> None:
    before = service.metric("serving_rows_total")
    ask(service, [installation.keys[0], UNKNOWN])

    assert service.metric("serving_rows_total") == before + 2
    text = service.client.get("/metrics").text
    assert f'version="{service.version()}"' in text
    assert {f'stage="{stage}"' in text for stage in ("wait", "features", "model", "answer")} == {True}


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """The service in this process."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client


def test_a_read_that_a_lock_holds_up_is_told_to_come_again(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in installation.environment.items():
        monkeypatch.setenv(name, value)

    async def answers() -> list[httpx.Response]:
        async with running(Settings(statement_seconds=0.3)) as client:
            with psycopg.connect(installation.settings.url) as connection:
                connection.execute("LOCK TABLE feast_online.demand_forecasting_sales_history_features")
                locked = await client.post("/predict", json=installation.keys[0])
            await asyncio.sleep(0.6)  # after a failure, requests fail at once for half a second
            return [locked, await client.post("/predict", json=installation.keys[0])]

    locked, free = asyncio.run(answers())

    assert (locked.status_code, free.status_code) == (503, 200)
    assert locked.headers["retry-after"] == "1"
    assert "the online store does not answer" in locked.json()["detail"]


def test_stale_features_are_refused_where_that_is_configured(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in installation.environment.items():
        monkeypatch.setenv(name, value)

    async def answers() -> list[httpx.Response]:
        async with running(Settings(on_stale="refuse")) as client:
            return [await client.post("/predict", json=body) for body in (installation.keys[0], installation.keys[:1])]

    one, many = asyncio.run(answers())

    assert one.status_code == 409
    assert "the features are of 2012-11-02" in one.json()["detail"]
    (row,) = many.json()
    assert (many.status_code, row["status"], row["forecast"]) == (200, "stale features", None)
