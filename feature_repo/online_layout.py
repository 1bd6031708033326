"""How a feature view lies in the online store: one row per entity key, one typed column per feature.

Feast's own PostgreSQL layout has a row per key *and feature*: for 3,300 series and 17 features 56,000 rows to write
and to parse. Here ``SELECT * … WHERE store = 1 AND dept = 7`` shows what is served.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import compute_table_id
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import RepoConfig
from feast.types import FeastType
from feast.value_type import ValueType

# The PostgreSQL type and the field of Feast's message; their list types follow from them.
_SCALARS = {
    ValueType.INT32: ("integer", "int32_val"),
    ValueType.INT64: ("bigint", "int64_val"),
    ValueType.FLOAT: ("real", "float_val"),
    ValueType.DOUBLE: ("double precision", "double_val"),
    ValueType.BOOL: ("boolean", "bool_val"),
    ValueType.STRING: ("text", "string_val"),
    ValueType.BYTES: ("bytea", "bytes_val"),
    ValueType.UNIX_TIMESTAMP: ("bigint", "unix_timestamp_val"),
}
_LISTS = {
    ValueType[f"{type_.name}_LIST"]: (f"{sql}[]", field.replace("_val", "_list_val"))
    for type_, (sql, field) in _SCALARS.items()
    if type_ is not ValueType.BYTES
}
_IDENTIFIER_BYTES = 63
EVENT, CREATED = "event_ts", "created_ts"


@dataclass(frozen=True, slots=True)
class Column:
    """A key or feature. ``field`` is empty for types without a column type: their message is stored as it is."""

    name: str
    sql: str
    field: str
    is_list: bool

    @classmethod
    def of(cls, name: str, dtype: FeastType) -> "Column":
        """The column for a Feast field."""
        value_type = dtype.to_value_type()
        if value_type in _SCALARS:
            return cls(name, *_SCALARS[value_type], is_list=False)
        if value_type in _LISTS:
            return cls(name, *_LISTS[value_type], is_list=True)
        return cls(name, "bytea", "", is_list=False)

    def to_python(self, value: ValueProto) -> Any:
        """The value to store; None where it is missing."""
        if value.WhichOneof("val") is None:
            return None
        if not self.field:
            return value.SerializeToString(deterministic=True)
        stored = getattr(value, self.field)
        return list(stored.val) if self.is_list else stored

    def to_proto(self, value: Any) -> ValueProto:
        """The inverse of ``to_python``."""
        if value is None:
            return ValueProto()
        if not self.field:
            return ValueProto.FromString(value)
        if self.is_list:
            return ValueProto(**{self.field: _list_message(self.field)(val=value)})
        return ValueProto(**{self.field: value})


@dataclass(frozen=True)
class ViewTable:
    """The table of a feature view."""

    schema: str
    name: str
    keys: tuple[Column, ...]
    features: tuple[Column, ...]

    @classmethod
    def of(cls, config: RepoConfig, view: FeatureView) -> "ViewTable":
        """The table of ``view``.

        Raises:
            ValueError: a key or feature has the name of one of the store's own columns.
        """
        keys = tuple(Column.of(field.name, field.dtype) for field in view.entity_columns)
        # A name in both lists is a key; views without a source list their keys among their features.
        taken = {key.name for key in keys}
        features = tuple(Column.of(field.name, field.dtype) for field in view.features if field.name not in taken)
        if clash := {EVENT, CREATED} & {column.name for column in keys + features}:
            raise ValueError(
                f"{view.name}: {', '.join(sorted(clash))} is a column of the online store's own: rename it"
            )
        versioned = config.registry.enable_online_feature_view_versioning
        name = _identifier(compute_table_id(config.project, view, versioned))
        return cls(config.online_store.db_schema, name, keys, features)

    @cached_property
    def feature(self) -> dict[str, Column]:
        """The feature columns by name."""
        return {column.name: column for column in self.features}

    def part(self, names: Iterable[str]) -> "ViewTable":
        """The same table with only these features, in the table's order."""
        given = set(names)
        return replace(self, features=tuple(column for column in self.features if column.name in given))

    @property
    def columns(self) -> dict[str, str]:
        """All column names with their SQL types, in the order of written rows."""
        keys = {column.name: column.sql for column in self.keys}
        own = {EVENT: "timestamp with time zone", CREATED: "timestamp with time zone"}
        return keys | own | {column.name: column.sql for column in self.features}

    @cached_property
    def fingerprint(self) -> str:
        """Of the columns and their order, for caches of whole rows."""
        return hashlib.sha256(repr(self.columns).encode()).hexdigest()[:12]

    @property
    def qualified(self) -> str:
        """Schema and table, quoted."""
        return f"{quote(self.schema)}.{quote(self.name)}"

    def create(self) -> str:
        """The statement that creates the table."""
        columns = ", ".join(f"{quote(name)} {sql}" for name, sql in self.columns.items())
        keys = ", ".join(quote(key.name) for key in self.keys)
        return f"CREATE TABLE {self.qualified} ({columns}, PRIMARY KEY ({keys}))"

    def upsert(self, source: str) -> str:
        """The statement that takes over ``source``, but no row that is older than the one in its place.

        Features that are not among this part's keep the values that they have.
        """
        names = ", ".join(quote(name) for name in self.columns)
        keys = ", ".join(quote(key.name) for key in self.keys)
        values = ", ".join(f"{quote(n)} = EXCLUDED.{quote(n)}" for n in (EVENT, CREATED, *self.feature))
        return (
            f"INSERT INTO {self.qualified} AS stored ({names}) SELECT {names} FROM {source} "  # noqa: S608
            f"ON CONFLICT ({keys}) DO UPDATE SET {values} "
            f"WHERE (EXCLUDED.{EVENT}, coalesce(EXCLUDED.{CREATED}, '-infinity')) "
            f">= (stored.{EVENT}, coalesce(stored.{CREATED}, '-infinity'))"
        )

    def remove_others(self) -> str:
        """The statement that removes all rows but those of some keys, its parameters: an array per key column."""
        arrays = ", ".join(f"%s::{key.sql}[]" for key in self.keys)
        kept = " AND ".join(f"kept.{quote(key.name)} = stored.{quote(key.name)}" for key in self.keys)
        return (
            f"DELETE FROM {self.qualified} AS stored WHERE NOT EXISTS "  # noqa: S608
            f"(SELECT FROM unnest({arrays}) AS kept ({', '.join(quote(key.name) for key in self.keys)}) WHERE {kept})"
        )


@dataclass(frozen=True)
class ViewRequest:
    """What to read of one view: ``features``, for the keys in ``key_values`` (a list per key column)."""

    table: ViewTable
    features: tuple[str, ...]
    key_values: tuple[list[Any], ...]


# Per key: None if it is unknown, else the event time and the features as Python values.
Row = tuple[Any, ...] | None


@cache
def select(requests: tuple[tuple[ViewTable, tuple[str, ...]], ...]) -> str:
    """The one statement that reads several views: a row per key row, the views' columns side by side."""
    arrays: list[str] = []
    names: list[str] = []
    columns: list[str] = []
    joins: list[str] = []
    for view, (table, features) in enumerate(requests):
        conditions = []
        for key in table.keys:
            name = f"k{len(names)}"
            arrays.append(f"%s::{key.sql}[]")
            names.append(name)
            conditions.append(f"v{view}.{quote(key.name)} = k.{name}")
        joins.append(f"LEFT JOIN {table.qualified} v{view} ON {' AND '.join(conditions)}")
        columns += [f"v{view}.{quote(name)}" for name in (EVENT, *features)]
    return (
        f"SELECT {', '.join(columns)} FROM unnest({', '.join(arrays)}) "  # noqa: S608
        f"WITH ORDINALITY AS k({', '.join(names)}, n) {' '.join(joins)} ORDER BY k.n"
    )


def quote(identifier: str) -> str:
    """An SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'


def _identifier(name: str) -> str:
    """PostgreSQL cuts long names, so that two of them could become one."""
    if len(name.encode()) <= _IDENTIFIER_BYTES:
        return name
    return name.encode()[:48].decode(errors="ignore") + "_" + hashlib.sha256(name.encode()).hexdigest()[:12]


@cache
def _list_message(field: str) -> Any:
    return type(getattr(ValueProto(), field))
