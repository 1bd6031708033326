"""The forecasts of a week, published to PostgreSQL and to a Parquet file."""

import datetime
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.database import PostgresSettings
from forecast_assets.atomic import replacing
from forecast_assets.sql import statement


def publish_forecasts(rows: pa.Table, week: datetime.date, settings: PostgresSettings) -> None:
    """Make ``weekly_forecasts`` hold exactly ``rows`` for ``week``, in one transaction. Earlier weeks are kept.

    Forecasts of later weeks can only come from other data, loaded before; they are removed.

    Args:
        rows: columns store, dept, week, forecast, p10, p50, p90 (dollars) and model_version.
        week: the coming week.
        settings: the server.
    """
    with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
        for sql in (
            *statement("create_weekly_forecasts").split(";\n"),
            "SELECT pg_advisory_xact_lock(hashtext('weekly_forecasts'))",
        ):
            cursor.execute(sql)
        cursor.adbc_ingest("staged_forecasts", rows, mode="create", temporary=True)
        cursor.execute(statement("delete_other_forecasts"), [week])
        cursor.execute(statement("upsert_weekly_forecasts"))
        connection.commit()


def write_forecasts(rows: pa.Table, week: datetime.date, folder: Path) -> Path:
    """Write ``rows`` to ``<week>.parquet`` in ``folder``, replacing the file as a whole. Returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{week.isoformat()}.parquet"
    with replacing(path) as temporary:
        pq.write_table(rows, temporary, compression="zstd")
    return path
