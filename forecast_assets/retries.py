"""Steps ride out a loss of the database: they are run again while it may be restarting, or failing over."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import adbc_driver_postgresql.dbapi as adbc
import dagster as dg
import psycopg

from feature_repo.database import VARIABLES, PostgresSettings

# A failover of PostgreSQL takes seconds, or a minute where a machine is lost.
_RETRIES, _SECONDS = 20, 3
# psycopg gives a refused connection no code of its own.
_REFUSAL = re.compile(
    r"authentication failed|no password supplied|no pg_hba.conf entry|does not support SSL|invalid sslmode"
    r'|(role|database) ".*" does not exist'
)


@contextmanager
def retried_when_connections_break() -> Iterator[None]:
    """Run the step again, for a minute, if the database goes away in the ``with`` block: it may be restarting."""
    try:
        yield
    except Exception as error:
        _advise(error)
        if not _is_broken_connection(error):
            raise
        raise dg.RetryRequested(max_retries=_RETRIES, seconds_to_wait=_SECONDS) from error


def _advise(error: BaseException | None) -> None:
    """Note at the error of a database that was named in the environment what to look at."""
    while error is not None:
        note = ""
        if isinstance(error, psycopg.OperationalError) and PostgresSettings.from_environment():
            note = f"Server, database and user are those of {', '.join(VARIABLES)}: check them."
        elif isinstance(error, psycopg.errors.InsufficientPrivilege):
            note = "The database user needs the right to create tables and schemas in the database."
        if note and note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        error = error.__cause__


def _is_broken_connection(error: BaseException | None) -> bool:
    """Also behind the errors of SQLAlchemy (Feast's registry) and of the online store, which name it as their cause."""
    while error is not None:
        if isinstance(error, psycopg.OperationalError | adbc.OperationalError):
            return _REFUSAL.search(str(error)) is None  # a wrong password or name stays wrong
        # What breaks while rows come in, Arrow's stream reports, which has no class for it.
        if isinstance(error, OSError) and str(error).startswith("[libpq]"):
            return True
        error = error.__cause__
    return False
