"""Model bundles, the two references that name one, and the decisions that moved them.

models/bundles/<name>/    a bundle as the trainer published it
models/CANDIDATE          the name of the bundle trained last
models/CHAMPION           the name of the bundle that serves
models/decisions.jsonl    one line per promotion, refusal and rollback, the oldest first
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from forecast_assets.atomic import write_reference
from trainer.reference import bundle_path, referenced_bundle

KEPT_BUNDLES = 10


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
    outcome: Literal["promoted", "refused", "rolled back"]
    bundle: str
    champion_before: str | None
    reasons: list[str]
    numbers: Mapping[str, Any]


class ModelStore:
    """The bundles in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def bundle(self, name: str) -> Path:
        """The folder of a bundle, existing or to be published."""
        return bundle_path(self.folder, name)

    def kept(self) -> list[Path]:
        """All bundles, the newest first."""
        return sorted((self.folder / "bundles").glob("[!.]*"), key=lambda path: path.stat().st_mtime, reverse=True)

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
        """Let ``bundle`` serve from now on: one atomic switch. Bundles that nothing names and nobody will miss go."""
        write_reference(self.folder / "CHAMPION", bundle.name)
        named = {self.candidate(), self.champion()}
        for old in self.kept()[KEPT_BUNDLES:]:
            if old not in named:
                shutil.rmtree(old)

    def decisions(self) -> list[DecisionRecord]:
        """All decisions, the oldest first."""
        path = self.folder / "decisions.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [DecisionRecord(**json.loads(line)) for line in lines]

    def record(
        self, outcome: Literal["promoted", "refused", "rolled back"], bundle: Path, *, run_id: str, **facts: Any
    ) -> None:
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
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "decisions.jsonl").open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def was_rolled_back(self, bundle: Path) -> bool:
        """Whether the last time that ``bundle`` stopped serving it was taken back by hand."""
        moves = [each for each in self.decisions() if each.outcome != "refused"]
        left = [each for each in moves if each.champion_before == bundle.name and each.bundle != bundle.name]
        return bool(left) and left[-1].outcome == "rolled back"
