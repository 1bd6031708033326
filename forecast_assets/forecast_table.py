"""Forecasts, published to PostgreSQL and to Parquet files, and the history of those that were made in time.

A table of forecasts shows what holds by the present drop: the newest forecasts, and before them those that were made
before their weeks were sold. After a drop that ends earlier than the one before, as when an old one is sent again, that
is less. ``<table>_history`` keeps every forecast that was made in time, and the table gets them back from it.
"""

import datetime
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import sql

from feature_repo.database import PostgresSettings
from forecast_assets.atomic import replacing
from forecast_assets.ingest.ledger import create_catalog
from forecast_assets.sql import statement

_TABLES = {"weekly_forecasts": "week", "horizon_forecasts": "origin"}


def publish_forecasts(table: str, rows: pa.Table, settings: PostgresSettings) -> None:
    """Make ``rows`` the newest forecasts that ``table`` shows, in one transaction. The same again changes no row.

    They enter the history, instead of earlier forecasts of the same week, unless sales of one of their weeks were
    accepted before: what was forecast without knowing them is never replaced.

    Args:
        table: ``weekly_forecasts``, or ``horizon_forecasts``, where they replace those of the same origin.
        rows: columns store, dept, week and those of ``sql/create_<table>.sql`` without a default; one week or origin.
        settings: the server.
    """
    newest = rows[_TABLES[table]][0].as_py()
    create_forecast_tables(table, settings)
    with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext($1))", [table])
        cursor.adbc_ingest("staged_forecasts", rows, mode="create", temporary=True)
        for command in [*publication(table, rows.column_names), *_commands("keep_forecasts", table)]:
            cursor.execute(command, [newest])
        connection.commit()


def publication(table: str, columns: list[str]) -> list[str]:
    """The commands that make staged rows the newest of ``table``; $1 is their week or origin."""
    return _commands("publish_forecasts", table, columns)


def create_forecast_tables(table: str, settings: PostgresSettings) -> None:
    """Create ``table`` and its history where they do not exist; a history begins with what the table shows."""
    create_catalog(settings)
    with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
        # Keeps two transactions from creating a table at the same time.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext($1))", [table])
        # The history came last: where it is, the rest is as below, and what a later version adds is to be looked for
        # here as well. For even where nothing is to be changed, ALTER TABLE waits for all who read the table, and all
        # who come to read it wait for that.
        cursor.execute("SELECT to_regclass($1) IS NOT NULL", [f"{table}_history"])
        if cursor.fetchone() == (True,):
            return
        for command in [*statement(f"create_{table}").split(";\n"), *_commands("create_forecast_history", table)]:
            cursor.execute(command)
        connection.commit()


def write_forecasts(week: datetime.date, settings: PostgresSettings, folder: Path) -> Path:
    """Make ``folder`` hold what ``weekly_forecasts`` shows, a file ``<week>.parquet`` for each week.

    Files before the newest one are right already. Each of the others is replaced as a whole, or goes, as those of weeks
    after ``week``, the coming one. Returns the path of its file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Later ones first, and all of them before anything is written: wherever this ends, the newest file is where the
    # next call has to begin.
    there = sorted(datetime.date.fromisoformat(path.stem) for path in folder.glob("????-??-??.parquet"))
    while there and there[-1] > week:
        _file(folder, there.pop()).unlink()
    with adbc.connect(settings.url) as connection, connection.cursor() as cursor:
        cursor.execute(statement("shown_forecasts"), [min([week, *there[-1:]])])
        rows = cursor.fetch_arrow_table()
    weeks = sorted(pc.unique(rows["week"]).to_pylist())
    if there and there[-1] not in weeks:
        _file(folder, there[-1]).unlink()
    for each in weeks:
        with replacing(_file(folder, each)) as temporary:
            pq.write_table(rows.filter(pc.equal(rows["week"], each)), temporary, compression="zstd")
    return _file(folder, week)


def _file(folder: Path, week: datetime.date) -> Path:
    return folder / f"{week.isoformat()}.parquet"


def _commands(name: str, table: str, columns: list[str] | None = None) -> list[str]:
    """The statements of ``name``.sql for a table and its history."""
    names = {
        "table": sql.Identifier(table),
        "history": sql.Identifier(f"{table}_history"),
        "index": sql.Identifier(f"{table}_history_{_TABLES[table]}"),
        "by": sql.Identifier(_TABLES[table]),
        "columns": sql.SQL(", ").join(map(sql.Identifier, columns or [])),
    }
    return [sql.SQL(command).format(**names).as_string() for command in statement(name).split(";\n")]
