"""What all assets share."""

from collections.abc import Iterator
from contextlib import contextmanager

import adbc_driver_postgresql.dbapi as adbc
import dagster as dg
import psycopg

OWNERS = ["team:demand-forecasting"]

# Runs that use the same pool wait for each other (dagster.yaml): what one of them reads, no other replaces meanwhile.
TABLES_POOL = "tables"
TRAINING_POOL = "training"
SERVING_POOL = "serving"


@contextmanager
def retried_when_connections_break() -> Iterator[None]:
    """Run the step again, twice at most, if the database goes away in the ``with`` block: it may be restarting."""
    try:
        yield
    except (psycopg.OperationalError, adbc.OperationalError) as error:
        raise dg.RetryRequested(max_retries=2, seconds_to_wait=5) from error
