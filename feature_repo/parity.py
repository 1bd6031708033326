"""Whether what is served online is what a training would have seen: the same series, the same features of a week."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import ENTITY_KEYS, LABEL, ON_DEMAND, SERIES_VIEWS, TIMESTAMP, VIEWS, names
from feature_repo.online_store import RowOnlineStore

if TYPE_CHECKING:
    from feast import FeatureStore

ON_DEMAND_TOLERANCE = 1e-12


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not the same online as offline; None is a missing one."""

    store: int
    dept: int
    feature: str
    online: object
    offline: object

    def __str__(self) -> str:
        return f"store {self.store}, dept {self.dept}, {self.feature}: {self.online!r} online, {self.offline!r} offline"


@dataclass(frozen=True, slots=True)
class Parity:
    """What a comparison found.

    Attributes:
        series, features: how many were compared.
        values: how many values differ.
        first: the first difference of each feature that has any, in the order of the features.
        not_live: series (store, dept) that at least one view serves though they are none of those compared.
        missing: series that at least one view does not serve though they should be.
    """

    series: int
    features: int
    values: int
    first: tuple[Difference, ...]
    not_live: tuple[tuple[int, int], ...] = ()
    missing: tuple[tuple[int, int], ...] = ()

    @property
    def differences(self) -> list[str]:
        """What is not the same, in words; nothing where all is."""
        found = [f"{self.values:,} online values are not the offline ones, first {self.first[0]}"] if self.first else []
        for series, what in ((self.not_live, "are served but not live"), (self.missing, "are live but not served")):
            if series:
                found.append(f"{len(series):,} series {what}, first store {series[0][0]}, dept {series[0][1]}")
        return found


def compare(store: "FeatureStore", keys: list[tuple[int, int]], week: datetime) -> Parity:
    """Compare what is online with series ``keys`` (store, dept) and their offline features as of ``week``.

    Stored features have to be equal to the bit, on-demand features within ``ON_DEMAND_TOLERANCE``. Which series are
    served cannot be asked of other online stores than ``RowOnlineStore``, and is not compared there.
    """
    references = [f"{view.name}:{feature.name}" for view in VIEWS for feature in view.features if feature.name != LABEL]
    stores, depts = (pa.array([key[position] for key in keys], pa.int64()) for position in range(2))
    rows = pa.table({"store": stores, "dept": depts, TIMESTAMP: pa.array([week] * len(keys))})
    offline = store.get_historical_features(rows.to_pandas(), references).to_arrow()
    online = store.get_online_features(references, {name: rows[name].to_pylist() for name in ENTITY_KEYS}).to_arrow()

    features = [reference.partition(":")[2] for reference in references]
    values, first = 0, []
    for name in features:
        differs = _differs(online[name], offline[name], 0 if name not in names(ON_DEMAND) else ON_DEMAND_TOLERANCE)
        positions = np.flatnonzero(differs)
        values += len(positions)
        if len(positions):
            row = int(positions[0])
            first.append(Difference(*keys[row], name, online[name][row].as_py(), offline[name][row].as_py()))
    live, served = set(keys), _served(store)
    not_live = {key for series in served for key in series - live}
    missing = {key for series in served for key in live - series}
    return Parity(len(keys), len(features), values, tuple(first), tuple(sorted(not_live)), tuple(sorted(missing)))


def _served(store: "FeatureStore") -> list[set[tuple[int, int]]]:
    """Of each view of series, those that it serves."""
    online_store = store._get_provider().online_store
    if not isinstance(online_store, RowOnlineStore):
        return []
    views = [store.registry.get_any_feature_view(name, store.project) for name in SERIES_VIEWS]
    return [{(key["store"], key["dept"]) for key in online_store.keys(store.config, view)} for view in views]


def _differs(online: pa.ChunkedArray, offline: pa.ChunkedArray, tolerance: float) -> npt.NDArray[np.bool_]:
    """Where two columns are not the same; a missing value is only the same as a missing one, NaN as NaN."""
    online, offline = online.combine_chunks(), offline.combine_chunks()
    if pa.types.is_list(offline.type):
        return np.array([not _same_list(*pair) for pair in zip(online, offline, strict=True)], dtype=np.bool_)
    if pa.types.is_null(online.type):
        return offline.is_valid().to_numpy(zero_copy_only=False)
    missing = [column.is_null().to_numpy(zero_copy_only=False) for column in (online, offline)]
    if pa.types.is_floating(offline.type):
        ours, theirs = (pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False) for column in (online, offline))
        same = np.abs(ours - theirs) <= tolerance if tolerance else ours.view(np.int64) == theirs.view(np.int64)
    else:
        filled = pc.equal(online.cast(offline.type), offline)
        same = pc.fill_null(filled, True).to_numpy(zero_copy_only=False)
    return (missing[0] != missing[1]) | ~same & ~missing[0]


def _same_list(online: pa.Scalar, offline: pa.Scalar) -> bool:
    if not (online.is_valid and offline.is_valid):
        return online.is_valid == offline.is_valid
    ours, theirs = (scalar.values.to_numpy(zero_copy_only=False).astype(np.float64) for scalar in (online, offline))
    return np.array_equal(ours.view(np.int64), theirs.view(np.int64))
