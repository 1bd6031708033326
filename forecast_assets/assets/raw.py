"""The drop: three CSV files, taken as one set because they describe each other."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from forecast_assets.assets.common import OWNERS
from forecast_assets.ingest.drop import DropFile, read_drop
from forecast_assets.ingest.files import DropRefusedError
from forecast_assets.ingest.ledger import record_accepted
from forecast_assets.metadata import column_schema, null_rates, picture, weekly_totals
from forecast_assets.resources import Artifacts, LandingZone, Postgres

_DESCRIPTIONS = {
    "train_csv": "Weekly sales per store and department, as they arrived. Checked line by line against its schema, "
    "the weekly grid and the other two files.",
    "features_csv": "What is known of each store's region and promotions per week; reaches beyond the sales.",
    "stores_csv": "Type and size of each store.",
}


@dg.multi_asset(
    specs=[
        dg.AssetSpec(name, group_name="raw", kinds={"csv"}, owners=OWNERS, description=description)
        for name, description in _DESCRIPTIONS.items()
    ],
    can_subset=True,
)
def raw_drop(
    context: dg.AssetExecutionContext, landing_zone: LandingZone, artifacts: Artifacts, postgres: Postgres
) -> Iterator[dg.MaterializeResult[None]]:
    """Validate the drop as a set, keep it, and enter its files in the ingest ledger. All of it or nothing."""
    folder = landing_zone.folder(context.log)
    try:
        drop = read_drop(folder)
    except DropRefusedError as error:
        raise dg.Failure(
            f"{error}. The drop was not loaded: feature tables, training frame, champion and online features are "
            "unchanged.",
            allow_retries=False,
        ) from None
    new = record_accepted(drop, postgres.settings(), run_id=context.run.run_id)
    artifacts.raw.save(drop)
    for file in drop.files:
        name = file.name.replace(".", "_")
        if dg.AssetKey(name) in context.selected_asset_keys:
            context.log.info(f"{file.source.name}: {file.rows:,} rows{_span(file)}")
            yield dg.MaterializeResult(
                asset_key=name,
                data_version=dg.DataVersion(file.content_hash),
                metadata=_metadata(file, artifacts) | {"new_files_in_ledger": new},
            )


def _metadata(file: DropFile, artifacts: Artifacts) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "dagster/row_count": file.rows,
        "dagster/column_schema": column_schema(file.table.schema),
        "content_hash": file.content_hash,
        "source": dg.MetadataValue.path(file.source),
        "repeated_rows": file.rows - file.table.num_rows,
        "missing_values": null_rates(file.table),
    }
    if file.weeks:
        metadata |= {"first_week": file.weeks[0].isoformat(), "last_week": file.weeks[1].isoformat()}
    if file.name == "train.csv":
        totals = weekly_totals(file.table["Date"], file.table["Weekly_Sales"])
        metadata["weekly_sales"] = picture(totals, artifacts.picture("weekly_sales"))
    return metadata


def _span(file: DropFile) -> str:
    return f", {file.weeks[0]} to {file.weeks[1]}" if file.weeks else ""
