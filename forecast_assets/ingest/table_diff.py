"""Which rows differ between two versions of a keyed table."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Integers = npt.NDArray[np.int64]


def differing_rows(old: pa.Table, new: pa.Table, key: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """What has to be written and what has to go to turn ``old`` into ``new``.

    Args:
        old: rows in any order; its columns are those of ``new``.
        new: rows in any order.
        key: integer or date columns that make a row unique in each of the two.

    Returns:
        The rows of ``new`` that are not in ``old`` or differ from it in any column, and the keys of the rows of
        ``old`` that are not in ``new``.
    """
    old_keys, new_keys = _combined_keys(old, new, key)
    order = np.argsort(old_keys)
    position = np.searchsorted(old_keys, new_keys, sorter=order)
    candidate = order[np.minimum(position, len(order) - 1)] if len(order) else np.zeros(len(new_keys), np.int64)
    known = old_keys[candidate] == new_keys if len(order) else np.zeros(len(new_keys), np.bool_)

    same = known.copy()
    before = old.take(pa.array(candidate[known]))
    after = new.filter(pa.array(known))
    same[known] = _equal_rows(before, after)
    gone = ~np.isin(old_keys, new_keys, assume_unique=True)
    return new.filter(pa.array(~same)), old.filter(pa.array(gone)).select(list(key))


def _combined_keys(old: pa.Table, new: pa.Table, key: Sequence[str]) -> tuple[Integers, Integers]:
    """One number per row and table, equal for equal keys."""
    combined = [np.zeros(table.num_rows, np.int64) for table in (old, new)]
    for name in key:
        parts = [_integers(table[name]) for table in (old, new)]
        values = np.concatenate(parts)
        low, span = (int(values.min()), int(np.ptp(values)) + 1) if values.size else (0, 1)
        combined = [so_far * span + (part - low) for so_far, part in zip(combined, parts, strict=True)]
    return combined[0], combined[1]


def _integers(column: pa.ChunkedArray) -> Integers:
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    return column.cast(pa.int64()).to_numpy()


def _equal_rows(before: pa.Table, after: pa.Table) -> npt.NDArray[np.bool_]:
    equal = np.ones(after.num_rows, np.bool_)
    for name in after.column_names:
        left, right = before[name], after[name]
        # Null where either side is: rows are the same there only if both sides are.
        compared = pc.fill_null(pc.equal(left, right), pc.and_(pc.is_null(left), pc.is_null(right)))
        equal &= compared.to_numpy()
    return equal
