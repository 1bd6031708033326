"""What is written to the online store: one row per key and time, with the features that it gives."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class WrittenRow:
    """One row to write: the key, its times, and the features that are given."""

    key: tuple[Any, ...]
    event: datetime
    created: datetime | None
    features: dict[str, Any]

    @property
    def age(self) -> tuple[datetime, bool, datetime]:
        """Sorts by event time, then by created time, of which none is the oldest."""
        return self.event, self.created is not None, self.created or self.event


def batches(rows: Iterable[WrittenRow]) -> list[tuple[frozenset[str], list[WrittenRow]]]:
    """Rows to be written one batch after the other, each with the features that all of its rows give, keys distinct.

    Nearly always one batch. Where rows of one write give different features, they go from the oldest to the newest,
    so that each is met by what would be in its place had they come alone.
    """
    rows = list(rows)
    if len({frozenset(row.features) for row in rows}) > 1:
        rows.sort(key=lambda row: row.age)
    return [(names, _newest(run)) for names, run in groupby(rows, key=lambda row: frozenset(row.features))]


def _newest(rows: Iterable[WrittenRow]) -> list[WrittenRow]:
    """One row per key, the newest; of equals the last."""
    kept: dict[tuple[Any, ...], WrittenRow] = {}
    for row in rows:
        other = kept.get(row.key)
        if other is None or row.age >= other.age:
            kept[row.key] = row
    return list(kept.values())
