"""One hash for the content of an Arrow table, whatever its chunks and buffers look like."""

import hashlib
import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def content_hash(table: pa.Table) -> str:
    """SHA-256 over names, types and values in order: equal for tables that are equal row by row.

    NULL differs from zero and from NaN. Columns may be numbers, booleans, dates, timestamps, strings or lists of
    numbers.
    """
    hasher = ContentHasher(table.schema)
    hasher.update(table)
    return hasher.hexdigest()


class ContentHasher:
    """``content_hash`` of rows that come piece by piece, in bounded memory: each column keeps digests of its own."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows = 0
        self._columns = [_ColumnHasher() for _ in schema]

    def update(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Take in the next rows. How they are cut into pieces does not count.

        Raises:
            ValueError: they have other columns than the first ones.
        """
        if not rows.schema.equals(self._schema):
            raise ValueError(f"these rows have the columns {rows.schema}, not {self._schema}")
        self._rows += rows.num_rows
        for hasher, column in zip(self._columns, rows.columns, strict=True):
            hasher.update(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)

    def hexdigest(self) -> str:
        """The hash of all rows so far."""
        digest = hashlib.sha256()
        for field, column in zip(self._schema, self._columns, strict=True):
            digest.update(json.dumps([field.name, str(field.type), self._rows, list(column.texts)]).encode())
            digest.update(column.validity.digest())
            digest.update(column.values.digest())
            digest.update(column.lengths.digest())
        return digest.hexdigest()


class _ColumnHasher:
    def __init__(self) -> None:
        self.validity = hashlib.sha256()
        self.values = hashlib.sha256()
        self.lengths = hashlib.sha256()  # of the lists in a list column, whose elements are then hashed in a row
        # Strings are numbered in order of appearance: the same content gives the same numbers.
        self.texts: dict[Any, int] = {}

    def update(self, column: pa.Array) -> None:
        if pa.types.is_list(column.type):
            self.lengths.update(pc.fill_null(pc.list_value_length(column), -1).to_numpy().tobytes())
            column = pc.list_flatten(column)
        if pa.types.is_string(column.type):
            encoded = column.dictionary_encode()
            numbers = [self.texts.setdefault(text, len(self.texts)) for text in encoded.dictionary.to_pylist()]
            column = pa.array(numbers, pa.int64()).take(encoded.indices)
        elif pa.types.is_boolean(column.type):
            column = column.cast(pa.uint8())
        elif pa.types.is_date32(column.type):
            column = column.cast(pa.int32())
        elif pa.types.is_timestamp(column.type):
            column = column.cast(pa.int64())
        # What lies under a NULL is arbitrary, so the values are filled and the validity is hashed beside them.
        self.validity.update(pc.is_valid(column).cast(pa.uint8()).to_numpy().tobytes())
        self.values.update(pc.fill_null(column, 0).to_numpy().tobytes())
