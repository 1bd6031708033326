"""Model bundles, the two references that name one, and the decisions that moved them.

models/bundles/<name>/    a bundle as the trainer published it
models/CANDIDATE          the name of the bundle trained last
models/CHAMPION           the name of the bundle that serves
models/decisions.jsonl    one line per promotion, refusal and rollback, the oldest first
"""

import re
import shutil
from collections.abc import Collection
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from forecast_assets.atomic import write_reference
from forecast_assets.decision_log import DecisionLog, DecisionRecord, Outcome
from trainer.reference import SIDECAR_FILE, bundle_path, referenced_bundle

KEPT_BUNDLES = 10
KEPT_CHAMPIONS = 5

_REPEATED = re.compile(r"(-[0-9a-f]+)?")


class ModelStore:
    """The bundles in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = DecisionLog(folder / "decisions.jsonl")

    def bundle(self, name: str) -> Path:
        """The folder of a bundle, existing or to be published."""
        return bundle_path(self.folder, name)

    def kept(self) -> list[Path]:
        """All bundles, the newest first."""
        return [folder for folder in self._folders() if _is_bundle(folder)]

    def trained_as(self, name: str) -> list[Path]:
        """The bundle ``name`` and those of its repetitions, the newest first; damaged ones are among them."""
        return [
            folder
            for folder in self._folders()
            if folder.name.startswith(name) and _REPEATED.fullmatch(folder.name.removeprefix(name))
        ]

    def candidate(self) -> Path | None:
        """The bundle trained last."""
        return referenced_bundle(self.folder, "CANDIDATE")

    def champion(self) -> Path | None:
        """The bundle that serves."""
        return referenced_bundle(self.folder, "CHAMPION")

    def set_candidate(self, bundle: Path) -> None:
        """Name ``bundle`` as the one trained last."""
        write_reference(self.folder / "CANDIDATE", bundle.name)

    def promote(self, bundle: Path) -> None:
        """Let ``bundle`` serve from now on: one atomic switch."""
        write_reference(self.folder / "CHAMPION", bundle.name)

    def remove_old(self, used: Collection[Path] = ()) -> None:
        """Remove bundles that nothing names and nobody will miss, and what failed trainings of their time have left.

        The newest stay, candidate and champion, those that the last promotions replaced, and those ``used``.
        """
        newest_first = self._folders()
        kept = [folder for folder in newest_first if _is_bundle(folder)]
        if len(kept) <= KEPT_BUNDLES:
            return
        promotions = [each for each in self.decisions() if each.outcome == "promoted" and each.champion_before]
        replaced = {self.bundle(str(each.champion_before)) for each in promotions[-KEPT_CHAMPIONS:]}
        missed = {self.candidate(), self.champion(), *replaced, *used}
        for folder in newest_first[newest_first.index(kept[KEPT_BUNDLES - 1]) + 1 :]:
            if folder not in missed:
                shutil.rmtree(folder)

    def deciding(self) -> AbstractContextManager[None]:
        """For whoever moves the champion: nobody else does until the end of the ``with`` block."""
        return self._log.alone()

    def decisions(self) -> list[DecisionRecord]:
        """All decisions, the oldest first."""
        return self._log.read()

    def record(self, outcome: Outcome, bundle: Path, *, run_id: str, **facts: Any) -> None:
        """Write a decision down, before it is acted on.

        Args:
            facts: ``reasons`` and ``numbers`` of the record.
        """
        champion = self.champion()
        record = DecisionRecord(
            decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
            run_id=run_id,
            outcome=outcome,
            bundle=bundle.name,
            champion_before=champion.name if champion else None,
            **facts,
        )
        self._log.append(record)

    def was_rolled_back(self, bundle: Path) -> bool:
        """Whether the last time that ``bundle`` stopped serving it was taken back by hand."""
        moves = [each for each in self.decisions() if each.outcome != "refused"]
        left = [each for each in moves if each.champion_before == bundle.name and each.bundle != bundle.name]
        return bool(left) and left[-1].outcome == "rolled back"

    def served_before(self) -> list[Path]:
        """The bundles that served before the champion, from promotion to promotion back; none that was rolled back."""
        champion = self.champion()
        last, found = champion, list[Path]()
        for each in reversed(self.decisions()):
            if each.outcome == "promoted" and last and each.bundle == last.name and each.champion_before:
                last = self.bundle(each.champion_before)
                found.append(last)
        return [bundle for bundle in found if bundle != champion and not self.was_rolled_back(bundle)]

    def _folders(self) -> list[Path]:
        """The newest first: bundles, damaged ones too, and the checkpoints of trainings that have not ended well."""
        return sorted((self.folder / "bundles").glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)


def _is_bundle(folder: Path) -> bool:
    return (folder / SIDECAR_FILE).exists()
