"""Publishing a table to PostgreSQL: readers see the old rows or the new ones, never a mixture."""

from dataclasses import dataclass
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa

from feature_repo.database import PostgresSettings
from feature_repo.features import TIMESTAMP
from forecast_assets.content_hash import content_hash
from forecast_assets.ingest.feature_tables import FeatureTable
from forecast_assets.ingest.ledger import create_catalog
from forecast_assets.sql import statement

_STAGING = "staging"


@dataclass(frozen=True, slots=True)
class Publication:
    """What a publication did: the table's data version, and the rows that were written, changed or removed."""

    data_version: str
    rows: int
    upserted: int
    deleted: int

    @property
    def changed(self) -> bool:
        return self.upserted + self.deleted > 0


def publish(table: FeatureTable, settings: PostgresSettings, *, run_id: str) -> Publication:
    """Make the PostgreSQL table hold exactly ``table.rows``, in one transaction.

    Rows that are there already are not touched: publishing the same content again writes nothing, and a reader's
    snapshot stays whole. Two publications of one table wait for each other.
    """
    version = content_hash(table.rows)
    create_catalog(settings)
    with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext($1)::bigint)", [table.name])
        cursor.fetchall()
        columns = _columns(cursor, table.name)
        if columns and _published_version(cursor, table.name) == version:
            connection.rollback()
            return Publication(version, table.rows.num_rows, upserted=0, deleted=0)
        if columns == _columns_to_be(cursor, table.rows.schema):
            upserted, deleted = _merge(cursor, table)
        else:
            upserted, deleted = _create(cursor, table), 0
        cursor.execute(statement("record_table_version"), [table.name, version, table.rows.num_rows, run_id])
        connection.commit()
        cursor.execute(f"ANALYZE {table.name}")
        connection.commit()
    return Publication(version, table.rows.num_rows, upserted, deleted)


def _published_version(cursor: Any, name: str) -> str | None:
    cursor.execute("SELECT data_version FROM feature_table_versions WHERE table_name = $1", [name])
    row = cursor.fetchone()
    return None if row is None else str(row[0])


def _columns(cursor: Any, name: str) -> list[str]:
    """Names and types of the table's columns; empty where there is no such table."""
    cursor.execute(
        "SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [name],
    )
    return [str(row[0]) for row in cursor.fetchall()]


def _columns_to_be(cursor: Any, schema: pa.Schema) -> list[str]:
    """What ``_columns`` gives for a table created from rows of this schema."""
    cursor.adbc_ingest(_STAGING, schema.empty_table(), mode="create", temporary=True)
    columns = _columns(cursor, _STAGING)
    cursor.execute(f"DROP TABLE {_STAGING}")
    return columns


def _create(cursor: Any, table: FeatureTable) -> int:
    """First load, or a change of columns. Indexes come after the rows, which is several times faster."""
    cursor.execute(f"DROP TABLE IF EXISTS {table.name}")
    cursor.adbc_ingest(table.name, table.rows, mode="create")
    cursor.execute(f"ALTER TABLE {table.name} ADD PRIMARY KEY ({', '.join(table.key)})")
    if TIMESTAMP in table.rows.column_names:
        joins = [column for column in table.key if column != "date"]
        cursor.execute(f"CREATE UNIQUE INDEX ON {table.name} ({', '.join([*joins, TIMESTAMP])})")
    return table.rows.num_rows


def _merge(cursor: Any, table: FeatureTable) -> tuple[int, int]:
    columns = table.rows.column_names
    cursor.adbc_ingest(_STAGING, table.rows, mode="create", temporary=True)
    cursor.execute(f"ANALYZE {_STAGING}")
    same_key = " AND ".join(f"old.{column} = new.{column}" for column in table.key)
    names, new = (", ".join(f"{prefix}{column}" for column in columns) for prefix in ("", "excluded."))
    deleted = _count(
        cursor,
        f"WITH gone AS (DELETE FROM {table.name} old WHERE NOT EXISTS "  # noqa: S608 - names are ours
        f"(SELECT FROM {_STAGING} new WHERE {same_key}) RETURNING 1) SELECT count(*) FROM gone",
    )
    upserted = _count(
        cursor,
        f"WITH changed AS (INSERT INTO {table.name} AS old ({names}) "  # noqa: S608
        f"SELECT {names} FROM (SELECT * FROM {_STAGING} EXCEPT SELECT * FROM {table.name}) differing "
        f"ON CONFLICT ({', '.join(table.key)}) DO UPDATE SET ({names}) = ROW({new}) RETURNING 1) "
        "SELECT count(*) FROM changed",
    )
    cursor.execute(f"DROP TABLE {_STAGING}")
    return upserted, deleted


def _count(cursor: Any, sql: str) -> int:
    cursor.execute(sql)
    (count,) = cursor.fetchone()
    return int(count)
