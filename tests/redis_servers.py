"""Redis servers for tests."""

import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PASSWORD = "only-for-these-tests"  # noqa: S105


@dataclass
class RedisServer:
    """A redis-server of the test's own on a free port, with its dump in a folder of its own."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    @property
    def url(self) -> str:
        return f"redis://:{PASSWORD}@localhost:{self.port}/0"

    def start(self) -> None:
        options = ["--port", str(self.port), "--dir", str(self.folder), "--requirepass", PASSWORD, "--save", ""]
        self.process = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        for _ in range(100):
            if self.answers():
                return
            time.sleep(0.05)
        raise TimeoutError("redis-server did not start")

    def stop(self, *, keep: bool = False) -> None:
        """Kill it; ``keep`` saves its data first, which the next start loads."""
        if self.process is not None:
            if keep:
                self.client().save()
            self.process.kill()
            self.process.wait()
            self.process = None

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("localhost", self.port)) == 0 and self.client().ping()

    def client(self) -> Any:
        import redis

        return redis.Redis.from_url(self.url, single_connection_client=False)

    def keys(self) -> list[bytes]:
        with self.client() as client:
            return list(client.scan_iter())
