"""Many cases of one seed: restore a state, run disturbed, run undisturbed, compare."""

import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import date
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from feature_repo.database import PostgresSettings
from forecast_assets.model_store import ModelStore
from forecast_assets.sample_data import write_sample_data

from . import child
from .faults import KINDS, STAGES, kinds_here
from .place import Place, until
from .scene import Scene
from .shim import compile_shim, shim_of
from .state import Reader, State, differences, leftovers, published

HANGS_AFTER = 120.0
HEARS_WITHIN = 1.5  # one that was over already needs a moment to go
SIZE = 0.004
EARLIER_WEEK = date(2012, 10, 19)
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Outcome:
    """One case.

    Attributes:
        injected: whether it came to the fault at all.
        disturbed: how the disturbed run ended: ``ended well``, ``failed`` or ``killed``.
        violations: what may not be, in a sentence each.
        says: the disturbed run's last words.
    """

    number: int
    kind: str
    stage: str
    done: str
    disturbed: str
    says: str
    violations: tuple[str, ...]
    seconds: float

    @property
    def injected(self) -> bool:
        return bool(self.done)

    @property
    def mark(self) -> str:
        """What became of the case, in a word or two."""
        return "VIOLATED" if self.violations else "recovered" if self.injected else "not reached"


@dataclass
class Campaign:
    """Cases of one seed.

    Attributes:
        references: the state after each stage, when nothing happens.
        seconds: that each stage then takes.
    """

    seed: int
    place: Place
    stages: tuple[str, ...] = STAGES
    references: dict[str, State] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make the states that cases start from and should end with, unless they were made in this place before."""
        only_ingests = self.stages == ("ingest",)
        compile_shim(self.place.root)
        needs = child.INGEST_NEEDS + ([] if only_ingests else child.REST_NEEDS)
        self.context = child.forking(needs, shim_of(self.place.root))
        made = self.place.root / "kept" / "references.json"
        if made.exists():
            self.references, self.seconds = json.loads(made.read_text())
            return
        self._prepare()
        made.write_text(json.dumps([self.references, self.seconds]))

    def _prepare(self) -> None:
        write_sample_data(self.place.landing, size=SIZE, through=EARLIER_WEEK)
        with self.place.server():
            for stage in self.stages:
                self._run_well(stage)
        shutil.rmtree(self.place.landing)
        write_sample_data(self.place.landing, size=SIZE)
        for stage in self.stages:
            self.place.keep(stage)
            with self.place.server() as settings:
                self.references[f"before {stage}"] = published(self.place.data, settings)
                started = time.monotonic()
                self._run_well(stage)
                self.seconds[stage] = time.monotonic() - started
                self.references[stage] = published(self.place.data, settings)
        candidate = ModelStore(self.place.data / "models").candidate()
        (self.place.root / "kept" / "bundle").write_text(candidate.name if candidate else "")

    def cases(self, numbers: range, only: str = "") -> Iterator[Outcome]:
        """Try each case. The same seed and number mean the same fault at the same moment."""
        kinds = [name for name in kinds_here(self.place) if {*KINDS[name].stages} & {*self.stages} and only in name]
        for number in numbers:
            rng = random.Random(f"{self.seed}/{number}")
            kind = kinds[number % len(kinds)]
            stage = rng.choice([stage for stage in KINDS[kind].stages if stage in self.stages])
            outcome = self._case(number, kind, stage, rng)
            yield outcome

    def _case(self, number: int, kind: str, stage: str, rng: random.Random) -> Outcome:
        started = time.monotonic()
        violations: list[str] = []
        self.place.restore(stage)
        log = self.place.root / "logs" / f"{number}.log"
        log.unlink(missing_ok=True)
        with self.place.server() as settings:
            moment = rng.uniform(0.05, 0.95 * self.seconds[stage])
            scene = Scene(self.place, settings, rng, stage, moment, log, lambda: self._start(stage, log))
            reader = Reader(self.place.data, settings, (self.references[f"before {stage}"], self.references[stage]))
            if KINDS[kind].watched:
                reader.start()
            ended = self._disturbed(kind, stage, scene, log, violations)
            said = log.read_text(errors="replace")
            remedy = KINDS[kind].remedies.get(stage)
            if remedy and ended != "failed":
                violations.append(f"nobody noticed that {scene.done}")
            for after in [remedy, stage] if remedy else [stage]:
                again = self._start(after, log)
                if not self._ends(again):
                    violations.append(f"the {after} run after it hung: {_last_words(log)}")
                elif again.exitcode != 0:
                    violations.append(f"the {after} run after it failed: {_last_words(log)}")
            if KINDS[kind].watched:
                violations += reader.stop()
            violations += self._what_is_left(stage, settings)
        if TRACEBACK in said and ended != "killed":
            violations.append(f"a traceback: {_after_traceback(said)}")
        if ended == "failed" and "✗" not in said:
            violations.append(f"it failed without saying why: {said[-300:]!r}")
        return Outcome(
            number, kind, stage, scene.done, ended, _first_failure(said), tuple(violations), time.monotonic() - started
        )

    def _disturbed(self, kind: str, stage: str, scene: Scene, log: Path, violations: list[str]) -> str:
        fault = KINDS[kind].fault(scene)
        how = next(fault)
        run = self._start(stage, log, how.environment, how.failing_fsync)
        fault.send(run)
        if not self._ends(run):
            violations.append(f"the disturbed run hung: {_last_words(log)}")
        ended = time.monotonic()
        for _ in fault:
            pass
        violations += scene.wrong
        if run.exitcode == 0 and scene.told_to_end is not None and ended - scene.told_to_end > HEARS_WITHIN:
            violations.append(f"it went on for {ended - scene.told_to_end:.1f} s after it was told to end")
        if run.exitcode == 0:
            return "ended well"
        return "killed" if run.exitcode in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT) else "failed"

    def _what_is_left(self, stage: str, settings: PostgresSettings) -> Iterator[str]:
        try:
            yield from differences(self.references[stage], published(self.place.data, settings))
        except Exception as error:
            yield f"what was published cannot be read: {type(error).__name__}: {error}"
        if not until(lambda: not self.place.processes(), 5):
            yield f"processes are left: {[' '.join(each.cmdline())[:100] for each in self.place.processes()]}"
            for process in self.place.processes():
                process.kill()
        if not until(lambda: not self.place.sessions(settings), 3):
            yield f"sessions are left: {self.place.sessions(settings)}"
        if betrayals := self.place.betrayals():
            yield f"a secret is written in {', '.join(betrayals[:3])}"
        if left := leftovers(self.place.data):
            yield f"files are left: {', '.join(left[:4])}"

    def _start(
        self, stage: str, log: Path, environment: dict[str, str] | None = None, failing_fsync: int | None = None
    ) -> ForkServerProcess:
        changed = {**self.place.environment, **(environment or {})}
        return child.start(self.context, stage, changed, log, failing_fsync)

    def _ends(self, run: ForkServerProcess) -> bool:
        run.join(HANGS_AFTER)
        if run.exitcode is None:
            run.kill()
            run.join()
            return False
        return True

    def _run_well(self, stage: str) -> None:
        log = self.place.root / "logs" / "undisturbed.log"
        run = self._start(stage, log)
        assert self._ends(run), "an undisturbed run hung"
        assert run.exitcode == 0, f"an undisturbed run failed:\n{log.read_text()}"


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    failures = [line for line in lines if "✗" in line and "check " not in line]
    return (failures or lines or ["nothing"])[-1].strip()[:400]


def _first_failure(said: str) -> str:
    return next((line.strip()[:300] for line in said.splitlines() if "✗" in line and "check " not in line), "")


def _after_traceback(said: str) -> str:
    lines = said[said.index(TRACEBACK) :].splitlines()
    return next((line for line in lines[1:] if line and not line.startswith((" ", "Traceback"))), "")[:300]


def table_of(outcomes: Collection[Outcome]) -> list[tuple[str, int, int, int]]:
    """Of each kind: faults injected, recovered from, violations; at the end, of all."""
    marks = {kind: Counter(each.mark for each in outcomes if each.kind == kind) for kind in KINDS}
    marks["all"] = sum(marks.values(), Counter())
    return [
        (kind, found["recovered"] + found["VIOLATED"], found["recovered"], found["VIOLATED"])
        for kind, found in marks.items()
        if found["recovered"] + found["VIOLATED"]
    ]
