"""What a training reports reaches everyone who asked for it."""

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from trainer.entry import train
from trainer.errors import SpecError
from trainer.progress import ProgressServer
from trainer.pushgateway import Pushgateway
from trainer.report import Report, opened_report

EPOCH = {
    "epoch": 2,
    "num_epochs": 5,
    "training_loss": 0.4,
    "validation_loss": 0.3,
    "wmae": 1300.0,
    "rmse": 2500.0,
    "mae": 1200.0,
    "wape": 0.08,
    "mape": 0.09,
    "learning_rate": 0.001,
    "epoch_duration_sec": 3.0,
    "rows_per_second": 1e5,
    "gpu_utilization": None,
    "memory_allocated_gb": None,
    "progressPercentage": 40,
    "estimatedRemainingSeconds": 9,
    "currentStep": 80,
    "totalSteps": 200,
}


@contextmanager
def gateway(received: list[tuple[str, str, str]]) -> Iterator[str]:
    """A server that keeps method, path and body of what is put to it; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            received.append((self.command, self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_progress_is_served_while_the_training_runs_and_left_in_the_termination_log(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    with ProgressServer(0, log) as server:
        report = Report([server])
        report.event("epoch", EPOCH)
        report.event("progress", {**EPOCH, "epoch": 3, "currentStep": 85, "progressPercentage": 43})
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=5) as answer:
            served = json.load(answer)
    assert json.loads(log.read_text()) == served
    assert served["trainMetrics"]["training_loss"] == 0.4
    assert served["evalMetrics"]["wmae"] == 1300.0
    figures = {name: value for name, value in served.items() if not name.endswith("Metrics")}
    assert figures == {
        "progressPercentage": 43,
        "estimatedRemainingSeconds": 9,
        "currentStep": 85,
        "totalSteps": 200,
        "currentEpoch": 3,
        "totalEpochs": 5,
    }


def test_epoch_metrics_are_put_to_the_pushgateway() -> None:
    received: list[tuple[str, str, str]] = []
    with gateway(received) as url:
        report = Report([Pushgateway(url)])
        report.event("progress", EPOCH)
        report.event("epoch", EPOCH)
    ((method, path, body),) = received
    assert (method, path) == ("PUT", "/metrics/job/trainer")
    assert "# TYPE forecast_training_wmae gauge\nforecast_training_wmae 1300.0\n" in body
    assert "gpu_utilization" not in body


def test_pushgateway_that_is_gone_stops_no_training(caplog: pytest.LogCaptureFixture) -> None:
    with gateway([]) as url:
        pass
    Report([Pushgateway(url)]).event("epoch", EPOCH)
    assert "did not reach" in caplog.text


@contextmanager
def no_gateway() -> Iterator[str]:
    """Something else at that port, that speaks before it is spoken to."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"SSH-2.0-none\r\n")
                connection.recv(65536)

        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize("somewhere", [no_gateway(), nullcontext("http://127.0.0.1:abc"), nullcontext("http://[::1")])
def test_pushgateway_that_is_none_stops_no_training(
    somewhere: AbstractContextManager[str], caplog: pytest.LogCaptureFixture
) -> None:
    with somewhere as url:
        Report([Pushgateway(url)]).event("epoch", EPOCH)
    assert f"did not reach {url}" in caplog.text


def test_pushgateway_must_be_an_http_url() -> None:
    with pytest.raises(SpecError, match="PROMETHEUS_PUSHGATEWAY_URL is 'file:///etc/passwd'"):
        Pushgateway("file:///etc/passwd")


def test_pushgateway_without_a_scheme_is_a_mistake_of_the_caller_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROMETHEUS_PUSHGATEWAY_URL", "pushgateway:9091")
    assert train(lambda: pytest.fail("the training began")) == 2
    told = "PROMETHEUS_PUSHGATEWAY_URL is 'pushgateway:9091'; allowed: an http or https URL"
    assert capsys.readouterr().err == f"trainer: {told}\n"


@pytest.mark.parametrize("given", ["abc", "100000", "taken"])
def test_port_that_is_none_or_taken_is_a_mistake_of_the_caller_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    with socket.create_server(("", 0)) as other:
        port = str(other.getsockname()[1]) if given == "taken" else given
        monkeypatch.setenv("TRAINER_PROGRESS_PORT", port)
        assert train(lambda: pytest.fail("the training began")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"trainer: TRAINER_PROGRESS_PORT is '{port}': progress cannot be served there (")


def test_other_processes_than_the_first_report_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINER_PROGRESS_PORT", "not a port")
    with opened_report(1) as report:
        report.event("epoch", EPOCH)
