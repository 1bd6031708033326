"""A table's fingerprint: its keys and a hash of each row, small enough to be kept beside the published table.

Two fingerprints tell which rows differ, without reading the published rows again.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

HASH = "row_hash"
_NULL = np.uint64(0x9E3779B97F4A7C15)

_LARGEST = 2**62

Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]


def fingerprint(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """The key columns and ``row_hash``, a 64-bit hash over all columns of each row, in the table's order.

    A changed row keeps its hash with a probability of 2^-64. Columns may be numbers, booleans, dates, timestamps,
    strings, or lists of numbers.
    """
    hashes = np.zeros(table.num_rows, np.uint64)
    with np.errstate(over="ignore"):
        for name in table.column_names:
            hashes = _mix(hashes ^ _mix(_bits(table[name].combine_chunks())))
    return table.select(list(key)).append_column(HASH, pa.array(hashes))


def changes(old: pa.Table, new: pa.Table, key: Sequence[str]) -> tuple[npt.NDArray[np.bool_], pa.Table]:
    """What turns the table with fingerprint ``old`` into the one with fingerprint ``new``.

    Args:
        old: a fingerprint, rows in any order.
        new: a fingerprint.
        key: integer or date columns that make a row unique in each of the two.

    Returns:
        A mask over the rows of ``new``: those that are not in ``old``, or not the same there; and the keys that are
        in ``old`` only.
    """
    old_keys, new_keys = _combined_keys(old, new, key)
    order = np.argsort(old_keys)
    position = np.searchsorted(old_keys, new_keys, sorter=order)
    inside = position < len(order)
    candidate = order[position[inside]]
    same = np.zeros(len(new_keys), np.bool_)
    same[inside] = (old_keys[candidate] == new_keys[inside]) & (
        old[HASH].to_numpy()[candidate] == new[HASH].to_numpy()[inside]
    )
    gone = ~np.isin(old_keys, new_keys, assume_unique=True)
    return ~same, old.filter(pa.array(gone)).select(list(key))


def to_bytes(table: pa.Table) -> bytes:
    """The fingerprint as a compressed Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_bytes(content: bytes) -> pa.Table:
    """The fingerprint written by ``to_bytes``."""
    with pa.ipc.open_stream(content) as reader:
        return reader.read_all()


def _mix(values: Hashes) -> Hashes:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014), a bijection that spreads every bit."""
    values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _bits(column: pa.Array) -> Hashes:
    """64 bits for each value; NULL has bits of its own."""
    if pa.types.is_list(column.type):
        bits = _list_bits(column)
    elif pa.types.is_string(column.type):
        encoded = column.dictionary_encode()
        words = [_word_of(text) for text in encoded.dictionary.to_pylist()] or [0]
        bits = np.array(words, np.uint64)[pc.fill_null(encoded.indices, 0).to_numpy()]
    elif pa.types.is_floating(column.type):
        bits = pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy().view(np.uint64)
    else:
        if pa.types.is_date32(column.type):
            column = column.cast(pa.int32())
        elif pa.types.is_boolean(column.type):
            column = column.cast(pa.uint8())
        bits = pc.fill_null(column.cast(pa.int64()), 0).to_numpy().view(np.uint64)
    return np.where(pc.is_null(column).to_numpy(zero_copy_only=False), _NULL, bits)


def _list_bits(column: pa.ListArray) -> Hashes:
    """The sum over a list's elements, each mixed with its position, so that their order counts."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    row = np.repeat(np.arange(len(column)), lengths)
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    bits = _mix(lengths.astype(np.uint64))
    np.add.at(bits, row, _mix(_bits(column.flatten()) ^ _mix(position.astype(np.uint64))))
    return bits


def _word_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _combined_keys(old: pa.Table, new: pa.Table, key: Sequence[str]) -> tuple[Integers, Integers]:
    """One number per row and table, equal for equal keys."""
    combined, total = np.zeros(old.num_rows + new.num_rows, np.int64), 1
    for name in key:
        values = np.concatenate([_integers(table[name]) for table in (old, new)])
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        span = high - low + 1
        if total * span > _LARGEST:
            combined, total = _numbered(combined)
            values, span = _numbered(values)
            low = 0
        combined, total = combined * span + (values - low), total * span
    return combined[: old.num_rows], combined[old.num_rows :]


def _numbered(values: Integers) -> tuple[Integers, int]:
    """The values counted from 0 in their order, and how many different ones there are."""
    distinct, numbers = np.unique(values, return_inverse=True)
    return numbers.astype(np.int64), len(distinct)


def _integers(column: pa.ChunkedArray) -> Integers:
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    return column.cast(pa.int64()).to_numpy()
