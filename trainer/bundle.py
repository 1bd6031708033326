"""The model bundle: a directory that holds all a forecast needs, and nothing that runs code when loaded.

    best_model.pt    MODEL_STATE, OPTIMIZER_STATE, EPOCH, VAL_LOSS, MODEL_CONFIG, FEATURE_HASH; loads with
                     weights_only=True
    bundle.json      encoder, scores, spec, versions, the sha256 of every other file and of its own other fields
    MODEL_CARD.md, *.png   for people

Contents depend on the data, the spec and the versions; to their last bits also on how the training ran: on the device,
the number of processes and of loading processes, and whether it held the frame in memory. Not on times and paths, and
not on interruptions: so the bundle's hash is its data version.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import logging
import os
import pickle
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from trainer.errors import BundleError
from trainer.forecaster import Forecaster
from trainer.inputs import Encoder
from trainer.model import build_model, config_from_dict, config_to_dict
from trainer.outcome import Fitted
from trainer.reference import SIDECAR_FILE

MODEL_FILE = "best_model.pt"

_logger = logging.getLogger("trainer")
_REPLACED = "replaced"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux
_OWN_HASH = "sha256"
_WHAT_TO_DO = "train again, or roll back to another bundle"


def write_bundle(directory: Path, *, fitted: Fitted, forecaster: Forecaster, facts: Mapping[str, Any]) -> None:
    """Write model and sidecar to `directory`, beside files for people that are there already.

    Args:
        facts: JSON values for the sidecar: scores, spec, versions and what else describes the training.
    """
    torch.save(
        {
            "MODEL_STATE": fitted.model.state_dict(),
            "OPTIMIZER_STATE": fitted.optimizer_state,
            "EPOCH": fitted.best.epoch,
            "VAL_LOSS": fitted.best.validation_loss,
            "MODEL_CONFIG": config_to_dict(fitted.config),
            "FEATURE_HASH": forecaster.encoder.feature_hash,
        },
        directory / MODEL_FILE,
    )
    described = {"encoder": forecaster.encoder.to_dict(), "spread": forecaster.spread}
    write_sidecar(directory, {**facts, **described, "files": _file_hashes(directory)})


def write_sidecar(directory: Path, fields: Mapping[str, Any]) -> None:
    """Write `fields`, JSON values, and their hash as the `bundle.json` of `directory`."""
    # As they will be read: numbers as keys become texts, which are in another order.
    (directory / SIDECAR_FILE).write_bytes(_sealed(json.loads(json.dumps(fields))))


def bundle_hash(path: Path | str) -> str:
    """The bundle's data version: sha256 over the names and sha256 of its files."""
    hashes = _file_hashes(Path(path))
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in hashes.items()).encode()).hexdigest()


def load_model(path: Path | str, *, data_version: str | None = None) -> Forecaster:
    """Rebuild the forecaster of a published bundle.

    Args:
        data_version: the hash the whole bundle must have, where the caller knows it.

    Raises:
        BundleError: a file is missing or is not what the bundle, or the caller, says it is, it holds more than
            weights, or another version of the trainer wrote the bundle.
    """
    root = Path(path)
    if data_version is not None and (actual := bundle_hash(root)) != data_version:
        raise BundleError(f"bundle {root} is not the expected one: its hash is {actual}, expected {data_version}")
    sidecar = read_sidecar(root)
    for name, expected in sidecar["files"].items():
        if not (root / name).is_file():
            raise BundleError(f"bundle file {root / name} is missing: {_WHAT_TO_DO}")
        if (actual := _sha256(root / name)) != expected:
            raise BundleError(
                f"bundle file {root / name} is corrupt: sha256 is {actual}, {SIDECAR_FILE} says {expected}: "
                f"{_WHAT_TO_DO}"
            )
    try:
        checkpoint = torch.load(root / MODEL_FILE, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise BundleError(f"bundle file {root / MODEL_FILE} does not hold weights alone: it was not loaded") from error
    try:
        return _rebuilt(root, sidecar, checkpoint)
    except (KeyError, TypeError, RuntimeError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise BundleError(
            f"bundle {root} was written by another version of the trainer ({cause}): train again"
        ) from error


def _rebuilt(root: Path, sidecar: dict[str, Any], checkpoint: dict[str, Any]) -> Forecaster:
    encoder = Encoder.from_dict(sidecar["encoder"])
    if checkpoint.get("FEATURE_HASH") != encoder.feature_hash:
        raise BundleError(
            f"bundle {root} holds a model of other features, or of the same in another order: the hash of the "
            f"encoder's in {SIDECAR_FILE} is {encoder.feature_hash}, the model's is {checkpoint.get('FEATURE_HASH')}"
        )
    model = build_model(config_from_dict(checkpoint["MODEL_CONFIG"]))
    model.load_state_dict(checkpoint["MODEL_STATE"])
    below, above = sidecar["spread"]
    return Forecaster(encoder=encoder, model=model, spread=(below, above))


def read_sidecar(path: Path | str) -> dict[str, Any]:
    """The fields of the bundle's `bundle.json`, without their hash.

    Raises:
        BundleError: there is none, or it is not to the byte what was written.
    """
    sidecar = Path(path) / SIDECAR_FILE
    if not sidecar.is_file():
        raise BundleError(f"bundle {path} is not complete: it has no {SIDECAR_FILE}")
    content = sidecar.read_bytes()
    try:
        fields = json.loads(content)
    except ValueError as error:
        cause = f"{type(error).__name__}: {error}"
        raise BundleError(f"bundle file {sidecar} is corrupt: {cause}: {_WHAT_TO_DO}") from error
    if not isinstance(fields, dict):
        raise BundleError(f"bundle file {sidecar} is corrupt: it holds no JSON object: {_WHAT_TO_DO}")
    if _OWN_HASH not in fields:
        raise BundleError(
            f"bundle file {sidecar} has no {_OWN_HASH} of its own, as another version of the trainer wrote it, or it "
            f"is corrupt: {_WHAT_TO_DO}"
        )
    said = fields.pop(_OWN_HASH)
    # Compared as bytes: two texts may stand for one number.
    if content != _sealed(fields):
        raise BundleError(
            f"bundle file {sidecar} is corrupt: it is not what its own {_OWN_HASH} {said!r} is of: {_WHAT_TO_DO}"
        )
    return fields


@contextmanager
def published(path: Path | str) -> Iterator[Path]:
    """A new directory to write to, which becomes `path` on leaving; nothing is left of it after an exception.

    Readers see no half-written bundle; what a killed process has written of one goes with the next. A bundle already at
    `path` is kept if identical and else replaced, in one step where the file system can do that. Where it cannot, as
    over NFS, there is none for a moment; `require_replaceable` puts back the old one if the process was killed in it.

    Raises:
        BundleError: as `require_replaceable`.
    """
    target = Path(path)
    require_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(target)
    with (
        tempfile.TemporaryDirectory(prefix=_scratch_prefix(target), dir=target.parent) as scratch,
        _locked(Path(scratch)),
    ):
        draft = Path(scratch) / "draft"
        draft.mkdir()
        yield draft
        for file in draft.iterdir():
            _fsync(file)
        _fsync(draft)
        if target.exists():
            if bundle_hash(target) == bundle_hash(draft):
                return
            # A directory with files cannot be renamed over. The old one goes with the scratch directory.
            if not _exchanged(draft, target):
                target.rename(Path(scratch) / _REPLACED)
                draft.rename(target)
        else:
            draft.rename(target)
        _fsync(target.parent)


def _scratch_prefix(target: Path) -> str:
    return f".{target.name}.~draft-"


def _scratch_folders(target: Path) -> list[Path]:
    """Those that `published` has made for `target`, and nobody else for anything else."""
    own = re.compile(re.escape(_scratch_prefix(target)) + "[a-z0-9_]{8}")  # as `tempfile` makes names unique
    return [path for path in target.parent.glob(".*") if own.fullmatch(path.name)]


def _remove_abandoned(target: Path) -> None:
    for left in _scratch_folders(target):
        with suppress(OSError), _locked(left):  # another process still writes there
            shutil.rmtree(left)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Raises OSError if another process holds the folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def require_replaceable(path: Path | str) -> None:
    """Refuse a `path` that holds something else than a bundle. A bundle whose replacement was cut off is put back.

    Raises:
        BundleError: it does.
    """
    target = Path(path)
    if not target.exists():
        _put_back(target)
    if target.exists() and not target.is_dir():
        raise BundleError(f"{target} is a file, not a directory, so it is no bundle and is not replaced")
    if target.exists() and any(target.iterdir()) and not (target / SIDECAR_FILE).exists():
        raise BundleError(f"{target} holds files and no {SIDECAR_FILE}, so it is no bundle and is not replaced")


def _put_back(target: Path) -> None:
    for scratch in _scratch_folders(target):
        with suppress(BlockingIOError, FileNotFoundError), _locked(scratch):  # another process is replacing it now
            (scratch / _REPLACED).rename(target)
            _fsync(target.parent)
            shutil.rmtree(scratch)
            _logger.warning("bundle %s is put back: its replacement was cut off", target)
            return


def _exchanged(one: Path, other: Path) -> bool:
    """Let two directories swap their names in one step; False where system or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    if (number := ctypes.get_errno()) in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sealed(fields: Mapping[str, Any]) -> bytes:
    """The only bytes that a sidecar of these fields may have."""
    return _json({**fields, _OWN_HASH: hashlib.sha256(_json(fields)).hexdigest()})


def _json(fields: Mapping[str, Any]) -> bytes:
    return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()


def _file_hashes(directory: Path) -> dict[str, str]:
    return {file.name: _sha256(file) for file in sorted(directory.iterdir())}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
