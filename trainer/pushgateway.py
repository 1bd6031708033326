"""Epoch metrics in a Prometheus Pushgateway, for jobs that end before they are scraped."""

import http.client
import logging
import urllib.request
from collections.abc import Mapping
from typing import Any

from trainer.errors import SpecError

_logger = logging.getLogger("trainer")
_TIMEOUT_SECONDS = 5.0
_PREFIX = "forecast_training_"


class Pushgateway:
    """Replaces the metrics of the job `trainer` with those of each epoch. A gateway that fails stops no training."""

    def __init__(self, url: str) -> None:
        """`url`: of the gateway, as http://pushgateway:9091.

        Raises:
            SpecError: it is not one.
        """
        if not url.startswith(("http://", "https://")):
            raise SpecError(f"PROMETHEUS_PUSHGATEWAY_URL is {url!r}; allowed: an http or https URL")
        self._url = f"{url.rstrip('/')}/metrics/job/trainer"

    def receive(self, event: Mapping[str, Any]) -> None:
        """Push the numbers of an epoch."""
        if event["type"] != "epoch":
            return
        numbers = {name: value for name, value in event.items() if isinstance(value, int | float)}
        lines = [f"# TYPE {_PREFIX}{name} gauge\n{_PREFIX}{name} {value}\n" for name, value in numbers.items()]
        try:
            request = urllib.request.Request(  # noqa: S310 - the scheme is checked
                self._url, "".join(lines).encode(), {"Content-Type": "text/plain; version=0.0.4"}, method="PUT"
            )
            urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS).close()  # noqa: S310
        except (OSError, http.client.HTTPException, ValueError) as error:  # unreachable, no HTTP, no URL
            _logger.warning("the epoch's metrics did not reach %s: %s", self._url, error or type(error).__name__)
