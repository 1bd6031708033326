"""What all assets share."""

import dagster as dg

OWNERS = ["team:demand-forecasting"]

# Runs that use the same pool wait for each other (dagster.yaml): what one of them reads, no other replaces meanwhile.
TABLES_POOL = "tables"
TRAINING_POOL = "training"
SERVING_POOL = "serving"

# A database that restarts is back within seconds. What cannot get better by itself is a Failure that allows no retry.
WHEN_CONNECTIONS_BREAK = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)
