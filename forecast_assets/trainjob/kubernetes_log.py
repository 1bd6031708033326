"""Reading on in a container's log, without loss and without repetition.

The kubelet filters the lines of one append-only file by their time stamps, and cuts ``sinceTime`` to whole seconds.
Stamps may run backwards a little, since standard output and error are stamped apart. A position is therefore a second
some way before the last line, how many lines since then were read, and the last one's fingerprint.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

Document = dict[str, Any]

# How far stamps may run backwards, in seconds.
_DISORDER = 2


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Where reading in a node's pods has come to.

    Attributes:
        pod: whose log was read last.
        created: when that pod was created, as Kubernetes writes it.
        since: whole second from which ``count`` counts; 0 for the start of the log.
        count: lines stamped since then that were read.
        last: fingerprint of the last of them.
    """

    pod: str = ""
    created: str = ""
    since: int = 0
    count: int = 0
    last: str = ""

    @classmethod
    def parse(cls, text: str) -> "LogPosition":
        """From what `dump` made; the empty text is the start."""
        return cls(**json.loads(text)) if text else cls()

    def dump(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":"))

    def onwards(self, pods: Iterable[Document]) -> list[Document]:
        """The pods of a node, given oldest first, that may hold lines behind this position."""
        pods = list(pods)
        names = [pod["metadata"]["name"] for pod in pods]
        if self.pod in names:
            return pods[names.index(self.pod) :]
        return [pod for pod in pods if pod["metadata"].get("creationTimestamp", "") >= self.created]

    def in_pod(self, pod: Document) -> "LogPosition":
        """This position if it is in that pod, else the start of the pod's log."""
        name = pod["metadata"]["name"]
        return self if name == self.pod else LogPosition(name, pod["metadata"].get("creationTimestamp", ""))

    @property
    def since_time(self) -> str | None:
        """As the query parameter ``sinceTime``."""
        if not self.since:
            return None
        return datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def advance(self, content: bytes, *, ended: bool) -> tuple[list[str], "LogPosition"]:
        """The lines in ``content`` that have not been read, and the position behind them.

        ``content`` is the log from `since_time` on. A last line without its end is left for later, unless the
        container has ``ended``.
        """
        lines = [stamped for raw in _whole_lines(content, ended=ended) if (stamped := _stamped(raw))]
        new = lines[self._already_read(lines) :]
        if not new:
            return [], self
        since = max(self.since, new[-1][0] - _DISORDER)
        count = sum(second >= since for second, _ in lines)
        position = LogPosition(self.pod, self.created, since, count, _fingerprint(lines[-1]))
        return [_text(line) for _, line in new], position

    def _already_read(self, lines: Sequence[tuple[int, bytes]]) -> int:
        if self.count == 0 or (self.count <= len(lines) and _fingerprint(lines[self.count - 1]) == self.last):
            return self.count
        # The log was rotated: it begins later than it did. If the last line is not in it either, all of it is new.
        found = [number for number, line in enumerate(lines) if _fingerprint(line) == self.last]
        return found[-1] + 1 if found else 0


def _whole_lines(content: bytes, *, ended: bool) -> list[bytes]:
    lines = content.split(b"\n")
    unfinished = lines.pop()
    if ended and unfinished:
        lines.append(unfinished)
    return lines


def _stamped(raw: bytes) -> tuple[int, bytes] | None:
    """The second of a line's stamp, and the raw line; None for the rest of a line that began before ``sinceTime``."""
    stamp = raw.partition(b" ")[0]
    try:
        # Nanoseconds are more than Python reads; the second is enough.
        seconds, _, fraction = stamp.decode("ascii").partition(".")
        zone = fraction.lstrip("0123456789") if fraction else ""
        return int(datetime.fromisoformat(seconds + zone).timestamp()), raw
    except ValueError:
        return None


def _text(raw: bytes) -> str:
    return raw.partition(b" ")[2].decode("utf-8", errors="replace").removesuffix("\r")


def _fingerprint(line: tuple[int, bytes]) -> str:
    return hashlib.blake2b(line[1], digest_size=8).hexdigest()
