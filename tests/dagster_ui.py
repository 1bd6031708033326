"""A Dagster webserver as a browser meets it."""

import json
import socket
import time
import urllib.error
import urllib.request
from typing import Any


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, query: str, *, seconds: float = 60) -> dict[str, Any]:
    """The ``data`` of a GraphQL query, as soon as the webserver is up."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - our own address
                answer: dict[str, dict[str, Any]] = json.load(response)
                return answer["data"]
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline, "the UI did not come up in time"
            time.sleep(0.3)
