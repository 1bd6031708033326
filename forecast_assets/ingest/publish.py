"""Publishing a table to PostgreSQL: readers see the old rows or the new ones, never a mixture."""

from dataclasses import dataclass
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa

from feature_repo.database import PostgresSettings
from feature_repo.features import TIMESTAMP
from forecast_assets.content_hash import content_hash
from forecast_assets.ingest.feature_tables import FeatureTable
from forecast_assets.ingest.fingerprint import changes, fingerprint, from_bytes, to_bytes
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

    Rows that are there already are not touched: publishing the same content again writes nothing, a new week writes
    its own rows and those it has an effect on, and a reader's snapshot stays whole. Two publications of one table
    wait for each other.
    """
    version = content_hash(table.rows)
    prints = fingerprint(table.rows, table.key)
    create_catalog(settings)
    with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext($1)::bigint)", [table.name])
        cursor.fetchall()
        columns = _columns(cursor, table.name)
        published = _published(cursor, table.name) if columns else None
        if published is not None and published[0] == version:
            connection.rollback()
            return Publication(version, table.rows.num_rows, upserted=0, deleted=0)
        if published is not None and columns == _columns_to_be(cursor, table.rows.schema):
            changed, gone = changes(from_bytes(published[1]), prints, table.key)
            upserted, deleted = _update(cursor, table, table.rows.filter(pa.array(changed)), gone), gone.num_rows
            # Joins are by these; autovacuum looks at the others when a tenth of the rows has changed.
            analyzed = [*table.key, *_timestamp(table)]
        else:
            upserted, deleted, analyzed = _create(cursor, table), 0, table.rows.column_names
        cursor.execute(
            statement("record_table_version"), [table.name, version, to_bytes(prints), table.rows.num_rows, run_id]
        )
        connection.commit()
        cursor.execute(f"ANALYZE {table.name} ({', '.join(analyzed)})")
        connection.commit()
    return Publication(version, table.rows.num_rows, upserted, deleted)


def _published(cursor: Any, name: str) -> tuple[str, bytes] | None:
    """Data version and fingerprint of the published table."""
    cursor.execute("SELECT data_version, fingerprint FROM feature_table_versions WHERE table_name = $1", [name])
    row = cursor.fetchone()
    return None if row is None else (str(row[0]), bytes(row[1]))


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
    if _timestamp(table):
        joins = [column for column in table.key if column != "date"]
        cursor.execute(f"CREATE UNIQUE INDEX ON {table.name} ({', '.join([*joins, TIMESTAMP])})")
    return table.rows.num_rows


def _timestamp(table: FeatureTable) -> list[str]:
    return [column for column in table.rows.column_names if column == TIMESTAMP]


def _update(cursor: Any, table: FeatureTable, changed: pa.Table, gone: pa.Table) -> int:
    """Remove the rows with the keys ``gone`` and write the rows ``changed``. Returns how many were written."""
    names, key = ", ".join(changed.column_names), ", ".join(table.key)
    if gone.num_rows:
        cursor.adbc_ingest(_STAGING, gone, mode="create", temporary=True)
        cursor.execute(f"DELETE FROM {table.name} WHERE ({key}) IN (SELECT {key} FROM {_STAGING})")  # noqa: S608
        cursor.execute(f"DROP TABLE {_STAGING}")
    if changed.num_rows:
        cursor.adbc_ingest(_STAGING, changed, mode="create", temporary=True)
        new = ", ".join(f"excluded.{column}" for column in changed.column_names)
        cursor.execute(
            f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {_STAGING} "  # noqa: S608 - names are ours
            f"ON CONFLICT ({key}) DO UPDATE SET ({names}) = ROW({new})"
        )
        cursor.execute(f"DROP TABLE {_STAGING}")
    return changed.num_rows
