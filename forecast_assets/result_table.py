"""Tables of results, replaced in one transaction: readers see the old rows or the new ones."""

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
from psycopg import sql

from feature_repo.database import PostgresSettings
from forecast_assets.sql import statement


def replace_rows(settings: PostgresSettings, table: str, rows: pa.Table) -> None:
    """Make ``table`` hold exactly ``rows``, creating it by ``sql/create_<table>.sql`` where it does not exist."""
    names = {
        "table": sql.Identifier(table),
        "staged": sql.Identifier(f"staged_{table}"),
        "columns": sql.SQL(", ").join(map(sql.Identifier, rows.column_names)),
    }
    with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
        # Also keeps two transactions from creating the table at the same time.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext($1))", [table])
        for command in statement(f"create_{table}").split(";\n"):
            cursor.execute(command)
        cursor.adbc_ingest(f"staged_{table}", rows, mode="create", temporary=True)
        for template in ("DELETE FROM {table}", "INSERT INTO {table} ({columns}) SELECT {columns} FROM {staged}"):
            cursor.execute(sql.SQL(template).format(**names).as_string())
        connection.commit()
