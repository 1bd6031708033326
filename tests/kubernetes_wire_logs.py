"""A container's log as the kubelet serves it: stamped to the nanosecond, ``sinceTime`` cut to whole seconds."""

import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

_NANOSECONDS = 1_000_000_000


class WireLog:
    """One container's log. Lines are written to it by the test; every reader sees all of them from the start."""

    def __init__(self) -> None:
        self._grown = threading.Condition()
        self._lines: list[tuple[int, bytes]] = []
        self._closed = False
        # The next reads break off after so many bytes each (a reset, in the middle of a line if it falls there).
        self.cuts: list[int] = []
        self.reads = 0

    def write(self, line: str | bytes, at: int | None = None, *, newline: bool = True) -> None:
        """Append a line; ``at`` is its time in nanoseconds since 1970, by default now."""
        content = line.encode() if isinstance(line, str) else line
        with self._grown:
            self._lines.append((time.time_ns() if at is None else at, content + b"\n" * newline))
            self._grown.notify_all()

    def close(self) -> None:
        """The container has ended: followers come to an end."""
        with self._grown:
            self._closed = True
            self._grown.notify_all()

    def rotate(self, keep: int) -> None:
        """The kubelet has begun a new file; only the last ``keep`` lines can be read any more."""
        with self._grown:
            self._lines = self._lines[len(self._lines) - keep :]

    def read(self, query: Mapping[str, str]) -> Iterator[bytes | None]:
        """Chunks of the answer; None where the connection is to break."""
        self.reads += 1
        cut = self.cuts.pop(0) if self.cuts else None
        since = 0
        if "sinceTime" in query:
            since = int(datetime.fromisoformat(query["sinceTime"]).timestamp()) * _NANOSECONDS
        for chunk in self._chunks(since, query):
            if cut is not None and len(chunk) >= cut:
                yield chunk[:cut]
                yield None
                return
            if cut is not None:
                cut -= len(chunk)
            yield chunk

    def _chunks(self, since: int, query: Mapping[str, str]) -> Iterator[bytes]:
        follow = query.get("follow", "").lower() == "true"
        stamped = query.get("timestamps", "").lower() == "true"
        position = 0
        starts_line = True
        if "tailLines" in query:
            position = max(0, len(self._lines) - int(query["tailLines"]))
        while True:
            with self._grown:
                if follow and position >= len(self._lines) and not self._closed:
                    self._grown.wait()
                new, position = self._lines[position:], max(position, len(self._lines))
                ended = self._closed or not follow
            chunk = b""
            for at, line in new:
                if at >= since:
                    chunk += (_stamp(at) + b" " if stamped and starts_line else b"") + line
                    starts_line = line.endswith(b"\n")
            yield chunk
            if ended and position >= len(self._lines):
                return


def _stamp(at: int) -> bytes:
    seconds, nanoseconds = divmod(at, _NANOSECONDS)
    whole = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{nanoseconds:09d}Z".encode()
