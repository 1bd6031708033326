"""Answers requests: those that wait are read and forecast together, in one round trip to the database."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter

from feature_repo.features import ENTITY_KEYS
from feature_repo.online_postgres import OnlineStoreUnavailableError
from feature_repo.online_reader import OnlineFeatures
from serving.champion import Champion
from serving.errors import BusyError, NotReadyError, UnavailableError
from serving.explanation import Explanation, explain
from serving.features import Features
from serving.forecasting import Forecasts, Status, forecast
from serving.metrics import Metrics
from serving.settings import Settings

# Requests of up to this many rows are put together; a larger one is a batch of its own and has a thread of its own.
_LARGE = 1_000

Keys = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Answer:
    """The forecasts of one request: the rows from ``start`` on of what was forecast together."""

    champion: Champion
    forecasts: Forecasts
    start: int
    explanations: list[Explanation] = field(default_factory=list)


@dataclass(slots=True)
class _Waiting:
    keys: Keys
    future: "asyncio.Future[Answer]"
    since: float


class Engine:
    """Holds the champion and the features. Its methods belong to one event loop."""

    def __init__(self, settings: Settings, features: Features, metrics: Metrics) -> None:
        self.champion: Champion | None = None
        self._settings = settings
        self._features = features
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._rows = 0
        self._small = ThreadPoolExecutor(1, thread_name_prefix="forecast")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="forecast-large")
        self._draining: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether there is a model; it was given features once."""
        return self.champion is not None

    async def forecast(self, keys: Keys, *, explained: bool = False) -> Answer:
        """The forecasts of ``keys`` (store, dept), in their order.

        Raises:
            NotReadyError: there is no model, or no feature store yet.
            BusyError: too many rows are waiting.
            UnavailableError: the online store does not answer, or not in time.
        """
        if not self.ready:
            raise NotReadyError("the service is not ready: it has no model, or no feature store, yet")
        if self._rows + len(keys) > self._settings.max_rows:
            raise BusyError(f"{self._rows:,} rows are waiting: try again in a moment")
        self._rows += len(keys)
        try:
            async with asyncio.timeout(self._settings.request_seconds):
                if explained or len(keys) > _LARGE:
                    started = perf_counter()
                    return await self._in_thread(self._large, keys, [started], explained)
                return await self._with_others(keys)
        except TimeoutError:
            raise UnavailableError(
                f"no answer within {self._settings.request_seconds:g} s: the service or its database is overloaded"
            ) from None
        finally:
            self._rows -= len(keys)

    def close(self) -> None:
        """Wait for what is being computed."""
        for pool in (self._small, self._large):
            pool.shutdown()

    async def _with_others(self, keys: Keys) -> Answer:
        waiting = _Waiting(keys, asyncio.get_running_loop().create_future(), perf_counter())
        self._waiting.append(waiting)
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())
        return await waiting.future

    async def _drain(self) -> None:
        while self._waiting:
            together: list[_Waiting] = []
            rows = 0
            while self._waiting and rows + len(self._waiting[0].keys) <= _LARGE:
                together.append(self._waiting.popleft())
                rows += len(together[-1].keys)
            # Whoever has gone in the meantime needs no forecast.
            together = [each for each in together if not each.future.done()]
            if not together:
                continue
            keys = [key for each in together for key in each.keys]
            try:
                answer = await self._in_thread(self._small, keys, [each.since for each in together], False)
            except Exception as error:
                for each in together:
                    if not each.future.done():
                        each.future.set_exception(error)
                continue
            start = 0
            for each in together:
                if not each.future.done():
                    each.future.set_result(Answer(answer.champion, answer.forecasts, start))
                start += len(each.keys)

    async def _in_thread(self, pool: ThreadPoolExecutor, keys: Keys, since: Sequence[float], explained: bool) -> Answer:
        champion = self.champion
        assert champion is not None  # noqa: S101 - ready
        return await asyncio.get_running_loop().run_in_executor(pool, self._work, champion, keys, since, explained)

    def _work(self, champion: Champion, keys: Keys, since: Sequence[float], explained: bool) -> Answer:
        now = perf_counter()
        for each in since:
            self._metrics.stage.labels("wait").observe(now - each)
        columns = dict(zip(ENTITY_KEYS, zip(*keys, strict=True), strict=True))
        with self._metrics.timed("features"):
            features = self._read(champion.service, columns)
        with self._metrics.timed("model"):
            forecasts = forecast(champion.model, features)
            explanations = explain(champion.model, features, forecasts) if explained else []
        for status in Status:
            if count := forecasts.statuses.count(status):
                self._metrics.rows.labels(status.name.lower()).inc(count)
        return Answer(champion, forecasts, 0, explanations)

    def _read(self, service: str, columns: Mapping[str, Sequence[int]]) -> OnlineFeatures:
        try:
            return self._features.read(service, columns)
        except OnlineStoreUnavailableError as error:
            self._metrics.errors.labels("database").inc()
            raise UnavailableError("the online store does not answer: try again in a moment") from error
        except LookupError as error:
            self._metrics.errors.labels("definitions").inc()
            raise UnavailableError("the feature definitions are changing: try again in a moment") from error
