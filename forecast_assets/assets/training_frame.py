"""The training frame: a point-in-time retrieval, validated before it replaces the last good one."""

import time
from collections.abc import Iterator

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import FRAME_FEATURES, FRAME_VIEWS, TIMESTAMP, TRAINING_SERVICE
from forecast_assets.assets.common import OWNERS
from forecast_assets.metadata import column_schema, markdown_table, null_rates
from forecast_assets.resources import Artifacts, FeastStore, Postgres
from forecast_assets.schemas import validate_training_frame
from forecast_assets.sql import statement

SCHEMA_CHECK = "schema_and_ranges"
ENTITY_CHECK = "one_row_per_labelled_week"


@dg.asset(
    group_name="feature_store",
    kinds={"feast", "parquet"},
    owners=OWNERS,
    deps=FRAME_VIEWS,
    check_specs=[
        dg.AssetCheckSpec(
            SCHEMA_CHECK,
            asset="training_frame",
            blocking=True,
            description="Types, missing values, impossible values and duplicate keys (pandera).",
        ),
        dg.AssetCheckSpec(
            ENTITY_CHECK,
            asset="training_frame",
            blocking=True,
            description="The retrieval gave one row for each labelled row of sales_features, and no other.",
        ),
    ],
    description="All features and the label of every past week, as Feast joins them point in time; Parquet chunks "
    "with a manifest. A frame that fails a check is not published: the last good one stays.",
)
def training_frame(
    context: dg.AssetExecutionContext, feast: FeastStore, postgres: Postgres, artifacts: Artifacts
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Retrieve, validate, publish."""
    from feature_repo.definition_hash import definition_hash

    started = time.monotonic()
    entity_rows = statement("labelled_rows")
    with feast.open() as store:
        service = store.get_feature_service(TRAINING_SERVICE)
        frame = store.get_historical_features(entity_df=entity_rows, features=service).to_arrow()
    retrieved = time.monotonic()
    context.log.info(f"{frame.num_rows:,} rows and {frame.num_columns} columns in {retrieved - started:.1f} s")

    with postgres.connect() as connection:
        (expected,) = connection.execute(statement("count_labelled_rows")).fetchone() or (0,)
    failures = validate_training_frame(frame)
    yield dg.AssetCheckResult(
        check_name=ENTITY_CHECK,
        passed=frame.num_rows == expected,
        metadata={"rows": frame.num_rows, "labelled_rows": expected},
    )
    yield dg.AssetCheckResult(
        check_name=SCHEMA_CHECK,
        passed=not failures,
        metadata={
            "failures": markdown_table(
                ("column", "rule", "rows", "first values"),
                [(f.column, f.rule, f.rows, f.first_values) for f in failures],
            )
        },
    )
    if failures or frame.num_rows != expected:
        broken = "; ".join(f"{f.column}: {f.rule} ({f.rows:,} rows, first {f.first_values})" for f in failures)
        raise dg.Failure(
            f"the training frame was not published, the last good one stays: {broken or ''}"
            + (
                f"{frame.num_rows:,} rows retrieved for {expected:,} labelled weeks"
                if frame.num_rows != expected
                else ""
            ),
            allow_retries=False,
        )

    service_hash = definition_hash(service)
    manifest = artifacts.frames.publish(frame, feature_service=TRAINING_SERVICE, feature_service_hash=service_hash)
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(manifest.content_hash),
        metadata={
            "dagster/row_count": manifest.rows,
            "dagster/column_schema": column_schema(frame.schema, {f.name: f.description for f in FRAME_FEATURES}),
            "first_week": manifest.first_week,
            "last_week": manifest.last_week,
            "chunks": len(manifest.chunks),
            "missing_values": null_rates(frame),
            "rows_per_week": _rows_per_week(frame),
            "retrieval_seconds": round(retrieved - started, 2),
            "seconds": round(time.monotonic() - started, 2),
            "entity_rows": dg.MetadataValue.md(f"```sql\n{entity_rows}\n```"),
        },
    )


def _rows_per_week(frame: pa.Table) -> str:
    counts = pc.value_counts(frame[TIMESTAMP]).field("counts")
    return f"{pc.min(counts)} to {pc.max(counts)}"
