"""Where and when something goes wrong, and what a fault is."""

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess

from feature_repo.database import PostgresSettings

from .place import Place, until


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
        again: starts the same run once more.
        done: what was done, in words; empty if it did not come to it.
    """

    place: Place
    settings: PostgresSettings
    rng: random.Random
    stage: str
    moment: float
    again: Callable[[], ForkServerProcess]
    done: str = ""

    def comes(self, run: ForkServerProcess) -> bool:
        """Wait for the moment; False if the run has ended before it."""
        return not until(lambda: not run.is_alive(), self.moment)


# It prepares, yields what the run is started with, does its damage while the run is there, yields again until the run
# has ended, and puts things right.
Fault = Generator[Start, ForkServerProcess, None]
