"""Disks that are full, read-only or failing, and files that are damaged or change."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from .child import PROOF
from .place import until
from .scene import Fault, Scene, Start
from .shim import shim_of

DAMAGE = ("cut", "emptied", "a bit flipped")
JOB_SECONDS = 40.0
WRITTEN_IN = {"ingest": ["raw", "frames"], "retrain": ["models", "trainjobs"], "forecast": ["forecasts"]}


def disk_full(*, for_good: bool) -> Callable[[Scene], Fault]:
    def fault(scene: Scene) -> Fault:
        run = yield Start()
        alive = scene.comes(run)
        spare = scene.rng.choice([0, 20_000, 300_000])
        with scene.place.full_disk(spare) as is_full:
            scene.done = f"{spare:,} bytes left after {scene.moment:.1f} s" if alive and is_full else ""
            if for_good:
                yield Start()
            else:
                time.sleep(1.5)
        if not for_good:
            yield Start()

    return fault


def read_only(scene: Scene) -> Fault:
    name = scene.rng.choice(WRITTEN_IN[scene.stage])
    with ExitStack() as stack:
        at_once = scene.rng.random() < 0.5
        if at_once:
            stack.enter_context(scene.place.read_only(scene.place.data / name))
        run = yield Start()
        if not at_once and scene.comes(run):
            stack.enter_context(scene.place.read_only(scene.place.data / name))
            scene.done = f"{name}, after {scene.moment:.1f} s"
        elif at_once:
            scene.done = f"{name}, from the start"
        yield Start()


def fsync_fails(scene: Scene) -> Fault:
    number, proof = scene.rng.randrange(1, 8), scene.place.root / "fsync-failed"
    proof.unlink(missing_ok=True)
    yield Start({PROOF: str(proof)}, failing_fsync=number)
    yield Start()
    scene.done = f"call {number}" if proof.exists() else ""


def fsync_fails_in_training(scene: Scene) -> Fault:
    number, proof = scene.rng.randrange(1, 12), scene.place.root / "fsync-failed"
    proof.unlink(missing_ok=True)
    yield Start({PROOF: str(proof), "LD_PRELOAD": str(shim_of(scene.place.root)), "FAILING_FSYNC": str(number)})
    yield Start()
    scene.done = f"call {number} of each process" if proof.exists() else ""


def changing_file(scene: Scene) -> Fault:
    """Written in place, in pieces, as by a sender who does not rename; in the end it is what it was.

    It counts where the run has come to the file while part of it was missing.
    """
    run = yield Start()
    file = scene.place.landing / scene.rng.choice(["train.csv", "features.csv", "stores.csv"])
    content = file.read_bytes()
    time.sleep(scene.rng.uniform(0, min(scene.moment, 0.6)))
    waits = scene.rng.random() < 0.5
    pieces = scene.rng.randrange(2, 6)

    def has_come_to_it() -> bool:
        said = scene.log.read_text(errors="replace") if scene.log.exists() else ""
        return "✗" in said or f"{file.name}:" in said or not run.is_alive()

    early = not has_come_to_it()
    with file.open("wb") as sender:
        for number in range(pieces):
            start, end = (len(content) * part // pieces for part in (number, number + 1))
            sender.write(content[start:end])
            sender.flush()
            if waits and number == pieces // 2:
                until(has_come_to_it, 10)
            time.sleep(scene.rng.uniform(0, 0.15))
            if early and number < pieces - 1 and has_come_to_it():
                scene.done = f"{file.name} in {pieces} pieces"
    yield Start()
    file.write_bytes(content)  # where it was put into quarantine, it is sent again, as the message asks for


def damaged(*patterns: str, ways: tuple[str, ...] = DAMAGE) -> Callable[[Scene], Fault]:
    """A file of what was published is cut, emptied, or has a bit flipped; nobody puts it right.

    Args:
        patterns: below the data folder; ``{frames}`` and ``{models}`` are what is current there.
    """

    def fault(scene: Scene) -> Fault:
        data = scene.place.data
        current = {
            store: (data / store / reference).read_text().strip()
            for store, reference in (("frames", "CURRENT"), ("models", "CHAMPION"))
            if (data / store / reference).exists()
        }
        files = sorted(path for pattern in patterns for path in data.glob(pattern.format(**current)) if path.is_file())
        _damage(scene, scene.rng.choice(files), ways)
        yield Start()
        yield Start()

    return fault


def _damage(scene: Scene, file: Path, ways: tuple[str, ...] = DAMAGE) -> None:
    content = bytearray(file.read_bytes())
    how = scene.rng.choice(ways)
    if how == "a bit flipped":
        content[scene.rng.randrange(len(content))] ^= 1 << scene.rng.randrange(8)
    file.write_bytes(content if how == "a bit flipped" else content[: len(content) // 2 if how == "cut" else 0])
    scene.done = f"{file.relative_to(scene.place.data)} {how}"


def planted_checkpoint(scene: Scene) -> Fault:
    """A training finds a checkpoint that is not what its name says."""
    name = (scene.place.root / "kept" / "bundle").read_text()
    folder = scene.place.data / "models" / "bundles" / f"{name}.checkpoints"
    folder.mkdir(parents=True)
    (folder / f"state-000007.{'0' * 64}.pt").write_bytes(scene.rng.randbytes(5_000))
    scene.done = "random bytes under a checkpoint's name"
    yield Start()
    yield Start()


def damaged_checkpoint(scene: Scene) -> Fault:
    """A training is killed after a checkpoint, with all that belongs to it, and the last checkpoint is damaged."""

    def checkpoints() -> list[Path]:
        return sorted(scene.place.data.glob("models/bundles/*.checkpoints/state-*.pt"))

    run = yield Start()
    until(lambda: checkpoints() or not run.is_alive(), JOB_SECONDS)
    time.sleep(scene.rng.uniform(0, 0.3))
    run.kill()
    while left := scene.place.processes():
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    yield Start()
    if found := checkpoints():
        _damage(scene, found[-1])
