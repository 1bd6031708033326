"""What is written to the online store: one row per key and time, with the features that it gives."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from feature_repo.online_layout import ViewTable


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


@dataclass(frozen=True)
class Change:
    """What is done to one view's table: first rows are removed, then ``rows`` taken over.

    Attributes:
        rows: to take over, but none that is older than the one in its place. A feature that a row does not give keeps
            the value that it has.
        later_than: rows with a later event time are removed; None for none.
        keep: rows of other keys than these, a list per key column, are removed; None for none.
    """

    table: ViewTable
    rows: Sequence[WrittenRow] = ()
    later_than: datetime | None = None
    keep: tuple[list[Any], ...] | None = None


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
