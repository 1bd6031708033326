"""Writing rows into the table behind a feature view."""

import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.repo_config import RepoConfig

from feature_repo.point_in_time import quote
from feature_repo.retrieval_job import connected

_WRITTEN = "rows_to_write"


def upsert(config: RepoConfig, view: FeatureView, rows: pa.Table) -> None:
    """Add rows to the view's table, in place of those with the same keys and times: all of them or none.

    Writing the same rows again changes nothing. Readers see the table as it was until all rows are there.

    Args:
        config: of the feature store.
        view: whose table is written.
        rows: with the names that the view gives to columns.

    Raises:
        ValueError: the view's source is a query, or a key or a time is missing, so that the row could never be found.
        adbc_driver_manager.Error: the table has no such columns, or its constraints forbid the rows.
    """
    source = view.batch_source
    assert source is not None  # noqa: S101 - Feast refuses a view without one
    table = source.get_table_query_string()
    if table.startswith("("):
        raise ValueError(f"the source of {view.name} is a query: write to the tables that it reads")
    columns = {name: column for column, name in source.field_mapping.items()}
    rows = rows.rename_columns([columns.get(name, name) for name in rows.column_names])
    key = [columns.get(field.name, field.name) for field in view.entity_columns if field.name != DUMMY_ENTITY_ID]
    key.append(source.timestamp_field)
    if missing := [column for column in key if rows[column].null_count]:
        raise ValueError(f"rows for {view.name} have missing values in {', '.join(missing)}: none was written")
    same = [f"old.{quote(column)} = new.{quote(column)}" for column in key]
    if source.created_timestamp_column:  # a later correction stands beside what it corrects
        created = quote(source.created_timestamp_column)
        same.append(f"old.{created} IS NOT DISTINCT FROM new.{created}")
    names = ", ".join(map(quote, rows.column_names))
    with connected(config) as connection, connection.cursor() as cursor:
        cursor.adbc_ingest(_WRITTEN, rows.replace_schema_metadata(), mode="create", temporary=True)
        # Two writers of the same rows, one after the other, not both beside each other.
        cursor.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")
        cursor.execute(f"DELETE FROM {table} old USING {_WRITTEN} new WHERE {' AND '.join(same)}")  # noqa: S608
        cursor.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM {_WRITTEN}")  # noqa: S608
        connection.commit()
