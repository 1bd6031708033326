"""The drop: three CSV files, taken as one set because they describe each other."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg

from feature_repo.features import TAGS
from forecast_assets.assets.common import OWNERS, TABLES_POOL
from forecast_assets.ingest.csv_tables import FEATURES, STORES, TRAIN
from forecast_assets.ingest.drop import Drop, DropFile, RowChanges, read_drop, row_changes
from forecast_assets.ingest.files import DropRefusedError
from forecast_assets.ingest.ledger import record_accepted, record_refused, record_sold_weeks
from forecast_assets.ingest.quarantine import quarantine
from forecast_assets.metadata import column_schema, null_rates, picture, seconds_since, weekly_totals
from forecast_assets.raw_store import DamagedDropError
from forecast_assets.resources import Artifacts, LandingZone, Postgres
from forecast_assets.retries import retried_when_connections_break

ACCEPTED_CHECK = "last_arrival_accepted"
HISTORY_CHECK = "keeps_history"

_DESCRIPTIONS = {
    "train_csv": "Weekly sales per store and department, as they arrived. Checked line by line against its schema, "
    "the weekly grid and the other two files.",
    "features_csv": "What is known of each store's region and promotions per week; reaches beyond the sales.",
    "stores_csv": "Type and size of each store.",
}
_KEYS = {"train.csv": TRAIN.key, "features.csv": FEATURES.key, "stores.csv": STORES.key}

Event = dg.MaterializeResult[None] | dg.AssetCheckResult


@dg.multi_asset(
    specs=[
        dg.AssetSpec(name, group_name="raw", kinds={"csv"}, owners=OWNERS, tags=TAGS, description=description)
        for name, description in _DESCRIPTIONS.items()
    ],
    check_specs=[
        *(
            dg.AssetCheckSpec(
                ACCEPTED_CHECK,
                asset=name,
                description="The file that arrived last was good, and is the one in use. If not: why, and where it is.",
            )
            for name in _DESCRIPTIONS
        ),
        dg.AssetCheckSpec(
            HISTORY_CHECK,
            asset="train_csv",
            description="Every row of the sales accepted before is still there: a file is the whole history.",
        ),
    ],
    can_subset=True,
    pool=TABLES_POOL,
)
def raw_drop(
    context: dg.AssetExecutionContext, landing_zone: LandingZone, artifacts: Artifacts, postgres: Postgres
) -> Iterator[Event]:
    """Validate the drop as a set, keep it, and enter its files in the ingest ledger. All of it or nothing."""
    started = time.monotonic()
    folder = landing_zone.folder(context.log, before=artifacts.raw.came_from())
    try:
        drop = read_drop(folder)
    except DropRefusedError as refusal:
        kept = quarantine(refusal, run_id=context.run.run_id)
        yield from _selected(context, _refuse(context, refusal, kept, postgres))
        put_aside = f" The file was {'moved' if refusal.bad_by_itself else 'copied'} to {kept}." if kept else ""
        raise dg.Failure(
            f"{refusal}.{put_aside} The drop was not loaded: feature tables, training frame, champion and online "
            "features are unchanged.",
            allow_retries=False,
        ) from None
    before = _before(context, artifacts)
    with retried_when_connections_break():
        # Also of the drop before, which an installation may have accepted before it remembered the weeks.
        for known in filter(None, (before, drop)):
            record_sold_weeks(known, postgres.settings())
        new = record_accepted(drop, postgres.settings(), run_id=context.run.run_id)
    artifacts.raw.save(drop)
    facts = {"new_files_in_ledger": new, "seconds_for_the_drop": seconds_since(started)}
    for file in drop.files:
        context.log.info(f"{file.source.name}: {file.rows:,} rows{_span(file)}")
        yield from _selected(context, _accepted(file, before, artifacts, facts))


def _before(context: dg.AssetExecutionContext, artifacts: Artifacts) -> Drop | None:
    """The drop accepted before, if there is one and what was kept of it can be read."""
    try:
        return artifacts.raw.load()
    except DamagedDropError as error:
        context.log.warning(f"rows are not compared with those accepted before: {error}")
    except FileNotFoundError:
        pass
    return None


def _refuse(
    context: dg.AssetExecutionContext, refusal: DropRefusedError, kept: Path | None, postgres: Postgres
) -> Iterator[Event]:
    """Enter the file in the ledger, and say so at all three assets: a drop is refused as a whole."""
    try:
        record_refused(refusal, postgres.settings(), quarantined_as=kept, run_id=context.run.run_id)
    except psycopg.Error as error:
        context.log.warning(f"the refusal was not entered in the ledger: {error}")
    metadata: dict[str, Any] = {"reason": str(refusal)}
    if kept:
        metadata["quarantined_as"] = dg.MetadataValue.path(kept)
    for name in _DESCRIPTIONS:
        yield dg.AssetCheckResult(asset_key=name, check_name=ACCEPTED_CHECK, passed=False, metadata=metadata)
    # Nothing was loaded, so nothing was lost; a check that is not answered would show as failed.
    yield dg.AssetCheckResult(asset_key="train_csv", check_name=HISTORY_CHECK, passed=True)


def _accepted(file: DropFile, before: Drop | None, artifacts: Artifacts, facts: dict[str, Any]) -> Iterator[Event]:
    name = file.name.replace(".", "_")
    changed = RowChanges(file.table.num_rows, 0, 0)
    if before is not None:
        (earlier,) = (each for each in before.files if each.name == file.name)
        changed = row_changes(earlier.table, file.table, _KEYS[file.name])
    counts = {"rows_added": changed.added, "rows_corrected": changed.corrected, "rows_removed": changed.removed}
    yield dg.MaterializeResult(
        asset_key=name,
        data_version=dg.DataVersion(file.content_hash),
        metadata=_metadata(file, artifacts) | facts | counts,
    )
    yield dg.AssetCheckResult(
        asset_key=name, check_name=ACCEPTED_CHECK, passed=True, metadata={"content_hash": file.content_hash}
    )
    if file.name == "train.csv":
        reason = (
            f"{changed.removed:,} rows accepted before are not in {file.source}, which is taken as the whole history: "
            "they leave the tables, too. If they should not, send the whole history again"
        )
        yield dg.AssetCheckResult(
            asset_key=name,
            check_name=HISTORY_CHECK,
            passed=changed.removed == 0,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={**counts, **({"reason": reason} if changed.removed else {})},
        )


def _selected(context: dg.AssetExecutionContext, events: Iterator[Event]) -> Iterator[Event]:
    """Those of the assets and checks that the run is for: others must not be reported."""
    for event in events:
        assert event.asset_key is not None  # noqa: S101 - named above
        key = dg.AssetKey.from_coercible(event.asset_key)
        if isinstance(event, dg.MaterializeResult):
            selected = key in context.selected_asset_keys
        else:
            assert event.check_name is not None  # noqa: S101 - named above
            selected = dg.AssetCheckKey(key, event.check_name) in context.selected_asset_check_keys
        if selected:
            yield event


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
