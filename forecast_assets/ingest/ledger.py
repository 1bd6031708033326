"""The ingest ledger: which file contents were accepted, when and by which run."""

import psycopg

from feature_repo.database import PostgresSettings
from forecast_assets.ingest.drop import Drop
from forecast_assets.sql import statement


def create_catalog(settings: PostgresSettings) -> None:
    """Create the ledger and the table of published versions where they do not exist."""
    with psycopg.connect(settings.url) as connection:
        # CREATE TABLE IF NOT EXISTS fails when two sessions do it at once.
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('create_catalog'))")
        connection.execute(statement("create_catalog"))


def record_accepted(drop: Drop, settings: PostgresSettings, *, run_id: str) -> int:
    """Enter the files of an accepted drop, each content once. Returns how many were new."""
    create_catalog(settings)
    entries = [
        {
            "file": file.name,
            "content_hash": file.content_hash,
            "row_count": file.rows,
            "first_week": file.weeks[0] if file.weeks else None,
            "last_week": file.weeks[1] if file.weeks else None,
            "run_id": run_id,
        }
        for file in drop.files
    ]
    with psycopg.connect(settings.url) as connection, connection.cursor() as cursor:
        cursor.executemany(statement("record_accepted_file"), entries)
        return cursor.rowcount
