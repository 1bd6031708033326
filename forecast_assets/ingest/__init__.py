"""From a drop of CSV files to feature tables: read, validate, compute, publish. No Dagster in here."""
