"""The ingest ledger: what was decided on each file that arrived, when, why and by which run."""

from pathlib import Path
from typing import Any

import psycopg
import pyarrow.compute as pc

from feature_repo.database import PostgresSettings
from forecast_assets.ingest.drop import Drop
from forecast_assets.ingest.files import DropRefusedError
from forecast_assets.sql import statement


def create_catalog(settings: PostgresSettings) -> None:
    """Create the ledger, its view, and the tables of published versions and sold weeks where they do not exist."""
    with psycopg.connect(settings.url) as connection:
        # CREATE TABLE IF NOT EXISTS fails when two sessions do it at once.
        connection.execute("SELECT pg_advisory_xact_lock(hashtext('create_catalog'))")
        connection.execute(statement("create_catalog"))


def record_accepted(drop: Drop, settings: PostgresSettings, *, run_id: str) -> int:
    """Enter the files of an accepted drop that were not in force already. Returns how many."""
    return _record(
        [
            {
                "file": file.name,
                "content_hash": file.content_hash,
                "row_count": file.rows,
                "first_week": file.weeks[0] if file.weeks else None,
                "last_week": file.weeks[1] if file.weeks else None,
                "decision": "accepted",
                "reason": None,
                "quarantined_as": None,
                "run_id": run_id,
            }
            for file in drop.files
        ],
        settings,
    )


def record_sold_weeks(drop: Drop, settings: PostgresSettings) -> None:
    """Remember that the sales of the drop's weeks are known, for ever: what is forecast of them now is hindsight."""
    create_catalog(settings)
    weeks = pc.unique(drop.train.table["Date"]).to_pylist()
    with psycopg.connect(settings.url) as connection:
        connection.execute("INSERT INTO sold_weeks SELECT unnest(%s::date[]) ON CONFLICT DO NOTHING", [weeks])


def record_refused(
    refusal: DropRefusedError, settings: PostgresSettings, *, quarantined_as: Path | None, run_id: str
) -> int:
    """Enter the file that was refused, unless its last refusal is the same. Returns how many entries were made."""
    sent = refusal.sent
    if sent is None:
        return 0
    entry = {
        "file": sent.name,
        "content_hash": sent.content_hash,
        "row_count": sent.rows,
        "first_week": None,
        "last_week": None,
        "decision": "refused",
        "reason": str(refusal),
        "quarantined_as": str(quarantined_as) if quarantined_as else None,
        "run_id": run_id,
    }
    return _record([entry], settings)


def _record(entries: list[dict[str, Any]], settings: PostgresSettings) -> int:
    create_catalog(settings)
    with psycopg.connect(settings.url) as connection, connection.cursor() as cursor:
        # Two runs that enter the same decision at once would both find it new.
        cursor.execute("LOCK TABLE ingest_ledger IN SHARE ROW EXCLUSIVE MODE")
        cursor.executemany(statement("record_decision"), entries)
        return cursor.rowcount
