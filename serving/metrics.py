"""What the service counts, for Prometheus."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2, 4, 8, 16)


class Metrics:
    """One set of metrics.

    Args:
        shared: each of several workers shows the sums over all. ``MULTIPROCESS_DIR`` has to be in the environment from
            the start; on its own it says nothing, because Feast sets it too.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self._registry = registry = CollectorRegistry()
        self.stage = Histogram(
            "serving_stage_seconds",
            "Time of a request by stage: waiting for its turn, features, model, answer",
            ["stage"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.request = Histogram(
            "serving_request_seconds", "Time of a request", ["route"], buckets=_SECONDS, registry=registry
        )
        self.requests = Counter("serving_requests", "Requests", ["route", "status"], registry=registry)
        self.rows = Counter("serving_rows", "Series asked for, by what became of them", ["status"], registry=registry)
        self.errors = Counter("serving_errors", "Errors by kind", ["kind"], registry=registry)
        self.in_work = Gauge(
            "serving_requests_in_work", "Requests being answered", registry=registry, multiprocess_mode="livesum"
        )
        self.feature_age = Gauge(
            "serving_feature_age_seconds",
            "Age of the oldest features of the last answer",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.model = Gauge(
            "serving_model_info",
            "1 for the model that serves, 0 for those before",
            ["name", "version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.switches = Counter("serving_model_switches", "Models taken into service", registry=registry)
        self.refused = Counter("serving_models_refused", "Bundles that were refused", registry=registry)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the time of a block as ``stage``."""
        started = perf_counter()
        try:
            yield
        finally:
            self.stage.labels(stage).observe(perf_counter() - started)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        if self._shared:
            every_worker = CollectorRegistry()
            MultiProcessCollector(every_worker)
            return generate_latest(every_worker)
        return generate_latest(self._registry)
