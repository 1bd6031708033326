"""What all assets share."""

OWNERS = ["team:demand-forecasting"]

# Runs that use the same pool wait for each other (dagster.yaml): what one of them reads, no other replaces meanwhile.
TABLES_POOL = "tables"
TRAINING_POOL = "training"
SERVING_POOL = "serving"
