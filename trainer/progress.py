"""Progress as OpenShift AI polls it: JSON over HTTP while the training runs, and in the termination log at its end."""

import json
import logging
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_logger = logging.getLogger("trainer")
_TRAIN_METRICS = ("training_loss", "learning_rate", "rows_per_second", "epoch_duration_sec")
_EVAL_METRICS = ("validation_loss", "wmae", "rmse", "mae", "wape", "mape")


class ProgressServer:
    """Serves the latest progress on every path of a port (0: any free one), within a `with` block.

    The fields: progressPercentage (0 to 100), estimatedRemainingSeconds, currentStep, totalSteps, currentEpoch,
    totalEpochs, trainMetrics, evalMetrics.
    """

    def __init__(self, port: int, termination_log: Path | str) -> None:
        self._termination_log = Path(termination_log)
        self._progress: dict[str, Any] = {
            **dict.fromkeys(("progressPercentage", "estimatedRemainingSeconds"), None),
            **dict.fromkeys(("currentStep", "totalSteps", "currentEpoch", "totalEpochs"), 0),
            "trainMetrics": {},
            "evalMetrics": {},
        }
        self._server = ThreadingHTTPServer(("", port), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def receive(self, event: Mapping[str, Any]) -> None:
        """Take in progress and epochs."""
        if event["type"] not in ("progress", "epoch"):
            return
        names = ("progressPercentage", "estimatedRemainingSeconds", "currentStep", "totalSteps")
        update = {name: event[name] for name in names}
        update |= {"currentEpoch": event["epoch"], "totalEpochs": event["num_epochs"]}
        if event["type"] == "epoch":
            update["trainMetrics"] = {name: event[name] for name in _TRAIN_METRICS}
            update["evalMetrics"] = {name: event[name] for name in _EVAL_METRICS}
        self._progress = {**self._progress, **update}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        try:
            self._termination_log.write_text(json.dumps(self._progress), encoding="utf-8")
        except OSError as failure:
            _logger.warning("no progress written to %s: %s", self._termination_log, failure.strerror)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(server._progress).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Polls are no news."""

        return Handler
