"""What was decided about models: one JSON line per promotion, refusal and rollback, the oldest first."""

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["promoted", "refused", "rolled back"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """What was decided about a bundle, and why.

    Attributes:
        bundle: the bundle that was judged, or to which the champion was rolled back.
        champion_before: the bundle that served until then, if any.
        reasons: a sentence each.
        numbers: what it was judged by.
    """

    decided_at: str
    run_id: str
    outcome: Outcome
    bundle: str
    champion_before: str | None
    reasons: list[str]
    numbers: Mapping[str, Any]


class DecisionLog:
    """The decisions in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Until the end of the block everybody else who asks for this waits, in other processes too."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def read(self) -> list[DecisionRecord]:
        """All decisions. A line that a write cut off, or that is damaged, is left out with a warning."""
        found = []
        lines = self._path.read_text(errors="replace").splitlines() if self._path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                found.append(DecisionRecord(**json.loads(line)))
            except (ValueError, TypeError):
                _logger.warning("%s, line %d is no decision, as after a write that was cut off", self._path, number)
        return found

    def append(self, record: DecisionRecord) -> None:
        """Write a decision to disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab+") as file:
            torn = file.tell() > 0 and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
            file.write(b"\n" * torn + json.dumps(asdict(record)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
