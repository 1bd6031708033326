"""Where and when something goes wrong, and what a fault is."""

import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from feature_repo.database import PostgresSettings

from .place import Place, until

_PATIENCE_SECONDS = 20.0


@dataclass
class Start:
    """How the disturbed run is started, where not as usual."""

    environment: dict[str, str] = field(default_factory=dict)
    failing_fsync: int | None = None


@dataclass
class Scene:
    """Where and when something is to go wrong.

    Attributes:
        stage: the job that is run.
        moment: seconds after the start.
        log: what the run says.
        again: starts the same run once more.
        done: what was done, in words; empty if it did not come to it.
        told_to_end: when the run was asked to end, by the monotonic clock.
        wrong: what may not be and only the fault can see, in a sentence each.
    """

    place: Place
    settings: PostgresSettings
    rng: random.Random
    stage: str
    moment: float
    log: Path
    again: Callable[[], ForkServerProcess]
    done: str = ""
    told_to_end: float | None = None
    wrong: list[str] = field(default_factory=list)

    def comes(self, run: ForkServerProcess) -> bool:
        """Wait for the moment; False if the run has ended before it."""
        return not until(lambda: not run.is_alive(), self.moment)

    def strikes(self, run: ForkServerProcess, strike: Callable[[], object]) -> bool:
        """Strike from the moment on until it has hit something; False if the run has ended before it."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        if self.comes(run):
            while run.is_alive() and time.monotonic() < deadline:
                if strike():
                    return True
                time.sleep(0.02)
        return False


# It prepares, yields what the run is started with, does its damage while the run is there, yields again until the run
# has ended, and puts things right.
Fault = Generator[Start, ForkServerProcess, None]
