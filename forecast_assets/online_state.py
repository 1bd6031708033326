"""What the online store was last filled from, and whether the weeks since then are all that has changed."""

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Self

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc

from forecast_assets.ingest.fingerprint import HASH, from_bytes
from forecast_assets.sql import statement


@dataclass(frozen=True, slots=True)
class OnlineState:
    """What a materialization was made from.

    Attributes:
        week: the coming week then.
        definitions: a hash of the entities, of the feature views and of the code of the on-demand features.
        history: a hash of all rows of the feature tables of weeks before ``week``.
    """

    week: str
    definitions: str
    history: str

    @classmethod
    def present(cls, connection: psycopg.Connection[Any], week: date) -> Self:
        """The state of the tables and definitions now, with the rows before ``week`` as history."""
        from feature_repo import transformations
        from feature_repo.definition_hash import definition_hash
        from feature_repo.definitions import ENTITIES, FEATURE_VIEWS

        code = inspect.getsource(transformations)
        definitions = hashlib.sha256((definition_hash(*ENTITIES, *FEATURE_VIEWS) + code).encode()).hexdigest()
        history = hashlib.sha256()
        for table, fingerprint in connection.execute(statement("table_fingerprints")).fetchall():
            rows = from_bytes(fingerprint)
            before = rows.filter(pc.less(rows["date"], pa.scalar(week)))
            history.update(table.encode() + np.sort(before[HASH].to_numpy()).tobytes())
        return cls(week.isoformat(), definitions, history.hexdigest())

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self | None:
        """The state that ``to_metadata`` gave, or None if there is none."""
        values = {name: metadata[name].value for name in cls.__dataclass_fields__ if name in metadata}
        return cls(**values) if len(values) == len(cls.__dataclass_fields__) else None

    def to_metadata(self) -> dict[str, str]:
        """The state as an asset's metadata."""
        return asdict(self)


def why_in_full(
    previous: OnlineState | None, connection: psycopg.Connection[Any], coming_week: date, online_until: date | None
) -> str | None:
    """Why writing the weeks since ``previous`` would not be enough, or None if it is.

    Args:
        previous: what the last materialization was made from, if that is known.
        coming_week: the week to materialize for.
        online_until: what Feast knows as the end of the last materialization.
    """
    if previous is None or online_until is None:
        return "the online store was not filled from here before"
    week = date.fromisoformat(previous.week)
    if online_until != week:
        return f"it was filled up to {online_until} by something else"
    if coming_week < week:
        return f"the coming week was {week} before"
    present = OnlineState.present(connection, week)
    if present.definitions != previous.definitions:
        return "definitions of features have changed"
    if present.history != previous.history:
        return f"rows of weeks before {week} have changed"
    return None
