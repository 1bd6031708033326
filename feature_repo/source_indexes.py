"""Which indexes the source of a feature view has, and which plan follows from them."""

import pyarrow as pa
from feast.repo_config import RepoConfig

from feature_repo.point_in_time import Plan, ViewQuery
from feature_repo.retrieval_job import fetch

_INDEXES = """
    SELECT i.indisunique AND i.indimmediate AS is_unique,
           (SELECT array_agg(coalesce(a.attname::text, '') ORDER BY k.place)
            FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (attnum, place)
            LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
            WHERE k.place <= i.indnkeyatts) AS columns,
           (SELECT format_type(atttypid, NULL) FROM pg_attribute
            WHERE attrelid = i.indrelid AND attname = $2) AS time_type
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am m ON m.oid = c.relam
    WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
"""


def best_plan(config: RepoConfig, view: ViewQuery, entity_rows: pa.Schema) -> Plan:
    """The fastest plan that the source's indexes, and the types of the entity rows' keys, allow for."""
    if view.source.startswith("(") or not all(_is_indexable(entity_rows.field(key).type) for key, _ in view.keys):
        return Plan.MERGE
    indexes = fetch(config, _INDEXES, [view.source, view.timestamp]).to_pylist()
    keys = {column for _, column in view.keys}
    if not any(
        set(index["columns"][: len(keys)]) == keys and index["columns"][len(keys) : len(keys) + 1] == [view.timestamp]
        for index in indexes
    ):
        return Plan.MERGE
    # Only times of one type can be hashed together; a row that is not created yet needs a look at those before it.
    hashable = all(index["time_type"] == "timestamp with time zone" for index in indexes) and not view.only_created
    without_ties = any(index["is_unique"] and set(index["columns"]) <= {*keys, view.timestamp} for index in indexes)
    return Plan.EXACT if hashable and without_ties else Plan.LOOKUP


def _is_indexable(key: pa.DataType) -> bool:
    """Whether PostgreSQL compares such a key as the type of the indexed column, and not both as something wider."""
    return any(
        is_type(key)
        for is_type in (
            *(pa.types.is_integer, pa.types.is_string, pa.types.is_large_string, pa.types.is_boolean),
            *(pa.types.is_date, pa.types.is_timestamp, pa.types.is_binary),
        )
    )
