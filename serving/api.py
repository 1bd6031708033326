"""``/predict`` and ``/forecasts``: keys in, forecasts out."""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, Body, HTTPException, Path, Query, Response

from serving.engine import Answer, Engine, Keys
from serving.forecasting import QUANTILES, Status
from serving.messages import Forecast, Problem, SeriesOrList
from serving.metrics import Metrics
from serving.settings import Settings

EXPLAINED_ROWS = 10
_DAY = 24 * 3600

_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The key is missing or wrong"},
    404: {"model": Problem, "description": "No such series"},
    409: {"model": Problem, "description": "The features are stale, and the service is set to refuse them"},
    413: {"model": Problem, "description": "The body is too large"},
    415: {"model": Problem, "description": "The body is not said to be JSON"},
    429: {"model": Problem, "description": "Too much is being asked for at once"},
    503: {"model": Problem, "description": "The database does not answer, or there is no model yet"},
}
_EXAMPLES: dict[str, Any] = {
    "one series": {"value": {"store": 1, "dept": 1}},
    "several": {"value": [{"store": 1, "dept": 1}, {"store": 1, "dept": 2}]},
}

Explain = Annotated[bool, Query(description=f"Say which inputs moved the forecast most; up to {EXPLAINED_ROWS} series")]


def routes(engine: Engine, settings: Settings, metrics: Metrics) -> APIRouter:
    """The routes of the service's own interface."""
    router = APIRouter(tags=["forecasts"])

    @router.post("/predict", response_model=Forecast | list[Forecast], responses=_RESPONSES)
    async def predict(
        series: Annotated[SeriesOrList, Body(openapi_examples=_EXAMPLES)], explain: Explain = False
    ) -> Response:
        """Forecast the coming week of one series, or of up to 10,000.

        One series is answered with its forecast or an error. Of a list, each is answered in its place; a row without
        a forecast says why in its status.
        """
        many = isinstance(series, list)
        asked = series if isinstance(series, list) else [series]
        if explain and len(asked) > EXPLAINED_ROWS:
            raise HTTPException(422, f"explain: up to {EXPLAINED_ROWS} series can be explained, not {len(asked):,}")
        return await answer([(each.store, each.dept) for each in asked], many=many, explain=explain)

    @router.get("/forecasts/{store}/{dept}", response_model=Forecast, responses=_RESPONSES)
    async def forecast(store: StoreKey, dept: DeptKey, explain: Explain = False) -> Response:
        """Forecast the coming week of one series."""
        return await answer([(store, dept)], many=False, explain=explain)

    async def answer(keys: Keys, *, many: bool, explain: bool) -> Response:
        answered = await engine.forecast(keys, explained=explain)
        with metrics.timed("answer"):
            rows = as_rows(keys, answered, settings, metrics)
            if not many:
                _raise_if_not_forecast(rows[0])
            return Response(json.dumps(rows if many else rows[0]), media_type="application/json")

    return router


StoreKey = Annotated[int, Path(ge=0, le=2**63 - 1, examples=[1])]
DeptKey = Annotated[int, Path(ge=0, le=2**63 - 1, examples=[1])]


def as_rows(keys: Keys, answer: Answer, settings: Settings, metrics: Metrics) -> list[dict[str, Any]]:
    """The answer as JSON values, one ``Forecast`` per key."""
    forecasts, rows = answer.forecasts, range(answer.start, answer.start + len(keys))
    weeks, times = (
        _naive(column.slice(answer.start, len(keys))) for column in (forecasts.weeks, forecasts.feature_times)
    )
    quantiles = forecasts.quantiles[answer.start : answer.start + len(keys)].tolist()
    now, oldest = datetime.now(UTC).replace(tzinfo=None), 0.0
    result = []
    for n, ((store, dept), row) in enumerate(zip(keys, rows, strict=True)):
        status: str = forecasts.statuses[row]
        warning = None
        if status == Status.OK:
            age = (now - times[n]).total_seconds()
            oldest = max(oldest, age)
            if 0 < settings.stale_after_days * _DAY < age:
                warning = f"the features are of {times[n]:%Y-%m-%d}, {age // _DAY:,.0f} days ago"
                if settings.on_stale == "refuse":
                    status = "stale features"
        shown = status == Status.OK
        forecast = {
            "store": store,
            "dept": dept,
            "status": status,
            "forecast": quantiles[n][1] if shown else None,
            "quantiles": dict(zip(QUANTILES, quantiles[n], strict=True)) if shown else None,
            "week": weeks[n].date().isoformat() if shown else None,
            "feature_timestamp": f"{times[n].isoformat(timespec='seconds')}Z" if times[n] is not None else None,
            "model_version": answer.champion.version if shown else None,
            "warning": warning,
        }
        if answer.explanations:
            forecast["explanation"] = asdict(answer.explanations[n]) if shown else None
        result.append(forecast)
    if oldest:
        metrics.feature_age.set(oldest)
    return result


def _raise_if_not_forecast(row: dict[str, Any]) -> None:
    series = f"store {row['store']}, dept {row['dept']}"
    match row["status"]:
        case Status.UNKNOWN:
            raise HTTPException(404, f"no such series: {series}")
        case Status.RENEWING:
            raise HTTPException(503, f"the features of {series} are being renewed", {"Retry-After": "2"})
        case "stale features":
            raise HTTPException(409, f"{series}: {row['warning']}")


def _naive(times: pa.Array) -> list[datetime]:
    # In UTC. With a zone, each value would be looked up in the time zone's database.
    return times.cast(pa.timestamp("us")).to_pylist()
