"""Checkpoints: all that is needed to go on with a training, beside the bundle it will become.

<model_output_dir>.checkpoints/
    state-000007.<sha256>.pt   the last three; each names the best model's file
    best-000006.<sha256>.pt    the best models that those three name
    adjustments-….json         what recoveries changed (`trainer.recovery`)

A file appears under its name when it is complete and on disk, and its name holds the hash of its content: a write that
was cut off and a content that rotted are both noticed. All load with `weights_only=True`.
"""

import hashlib
import io
import logging
import os
import pickle
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import torch

from trainer.distributed import World, agreed
from trainer.errors import CheckpointMismatchError, CheckpointWriteError

_logger = logging.getLogger("trainer")
_KEPT = 3
_WRITE_TRIES = 3
_PAUSE_SECONDS = 0.5

State = dict[str, Any]


class CheckpointStore:
    """The checkpoints of one training, in one folder. Only the first process uses it."""

    def __init__(self, model_output_dir: str, *, frame_hash: str, spec_hash: str, code_hash: str) -> None:
        output = Path(model_output_dir)
        self.folder = output.with_name(output.name + ".checkpoints")
        self._owner = {"frame": frame_hash, "spec": spec_hash, "code": code_hash}
        #: What recoveries changed. Named after its owner: another training's changes are none of this one's.
        self.adjustments_file = self.folder / f"adjustments-{frame_hash[:12]}-{spec_hash[:12]}.json"
        self._best_name: str | None = None
        self._best_epoch = 0

    def save(self, state: State, best: State | None) -> None:
        """Write a checkpoint; older ones beyond the last three go.

        Args:
            state: tensors and JSON values.
            best: the best model so far; written if its "EPOCH" is not that of the last checkpoint's best.

        Raises:
            CheckpointWriteError: it could not be written, after retries.
        """
        number = 1 + max((_number(file) for file in self._files("*")), default=0)
        if best is not None and best["EPOCH"] != self._best_epoch:
            self._best_name = self._write("best", number, best).name
            self._best_epoch = best["EPOCH"]
        self._write("state", number, {"owner": self._owner, "best": self._best_name, **state})
        # Each checkpoint brings one new best model at most, so the last three name none but the last three of those.
        for file in (*self._files("state")[:-_KEPT], *self._files("best")[:-_KEPT]):
            file.unlink(missing_ok=True)

    def load(self) -> tuple[State, State | None] | None:
        """The newest good checkpoint and its best model, or None if there is none. Later ones, all bad, are deleted.

        Raises:
            CheckpointMismatchError: it belongs to another frame, spec or version of the trainer's code.
        """
        files = self._files("state")
        for file in reversed(files):
            state = _read(file)
            best = _read(self.folder / state["best"]) if state is not None and state["best"] else None
            if state is None or (state["best"] and best is None):
                _logger.warning("checkpoint %s is corrupt or incomplete: it is not used", file)
                continue
            self._check_owner(state["owner"])
            self._best_name, self._best_epoch = state["best"], best["EPOCH"] if best is not None else 0
            for later in self._files("*"):
                if _number(later) > _number(file):
                    later.unlink()
            return state, best
        if files:
            _logger.warning("no checkpoint in %s is good: the training begins anew", self.folder)
        return None

    def exist(self) -> bool:
        """Whether there are any, good or bad."""
        return bool(self._files("state"))

    def remove(self) -> None:
        """Delete all checkpoints: the bundle is published."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, kind: str, number: int, content: State) -> Path:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        data = buffer.getvalue()
        path = self.folder / f"{kind}-{number:06d}.{hashlib.sha256(data).hexdigest()}.pt"
        write_patiently(path, data)
        return path

    def _check_owner(self, owner: dict[str, str]) -> None:
        for what, expected in self._owner.items():
            if (found := owner.get(what, "unknown")) != expected:
                raise CheckpointMismatchError(
                    f"the checkpoints in {self.folder} belong to the {what} {found}, but this training's {what} "
                    f"is {expected}: give back that {what}, or remove the folder to begin anew"
                )

    def _files(self, kind: str) -> list[Path]:
        return sorted(self.folder.glob(f"{kind}-*.pt"), key=_number)


def load_together(store: CheckpointStore, world: World) -> tuple[State, State | None] | None:
    """`CheckpointStore.load` by the first process, which tells the others: they need not reach the folder.

    Raises:
        CheckpointMismatchError: on all processes.
    """
    buffer = io.BytesIO()
    with agreed(world):
        if world.rank == 0:
            torch.save(store.load(), buffer)
    content = world.broadcast(buffer.getvalue())
    loaded: tuple[State, State | None] | None = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return loaded


def write_patiently(path: Path, data: bytes) -> None:
    """`write_durably`, tried again where it fails.

    Raises:
        CheckpointWriteError: it failed each time.
    """
    for attempt in range(1, _WRITE_TRIES + 1):
        try:
            write_durably(path, data)
        except OSError as error:
            _logger.warning("%s, try %d of %d: %s", path, attempt, _WRITE_TRIES, error.strerror)
            if attempt == _WRITE_TRIES:
                raise CheckpointWriteError(
                    f"checkpoint file {path} of {len(data):,} bytes cannot be written: {error.strerror}; "
                    f"free there: {_free_bytes(path):,} bytes"
                ) from error
            time.sleep(_PAUSE_SECONDS * 2 ** (attempt - 1))
        else:
            return


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that is there as a whole, on disk, or not at all.

    Raises:
        OSError: as the file system said; nothing is left of the attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of this writer alone: a job that is replaced may still be writing.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(file: Path) -> State | None:
    """The content, or None if it is not what the name says."""
    if not file.is_file():
        return None
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != file.name.split(".")[1]:
        return None
    try:
        content: State = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # more than weights, and not from here
        return None
    return content


def _number(file: Path) -> int:
    return int(file.name.split(".")[0].partition("-")[2])


def _free_bytes(path: Path) -> int:
    existing = next(folder for folder in path.parents if folder.exists())
    return shutil.disk_usage(existing).free
