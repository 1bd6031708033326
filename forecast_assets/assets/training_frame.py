"""The training frame: a point-in-time retrieval, validated before it replaces the last good one."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import FRAME_FEATURES, FRAME_VIEWS, TAGS, TIMESTAMP, TRAINING_SERVICE
from forecast_assets.assets.common import OWNERS, TABLES_POOL
from forecast_assets.atomic import staging_directory
from forecast_assets.lineage import column_lineage, joined_sources
from forecast_assets.metadata import column_schema, markdown_table, seconds_since, sql
from forecast_assets.resources import Artifacts, FeastStore, Postgres
from forecast_assets.schemas import FrameValidator
from forecast_assets.sql import statement

SCHEMA_CHECK = "schema_and_ranges"
ENTITY_CHECK = "one_row_per_labelled_week"


@dg.asset(
    group_name="feature_store",
    kinds={"feast", "parquet"},
    owners=OWNERS,
    tags=TAGS,
    deps=FRAME_VIEWS,
    pool=TABLES_POOL,
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
    """Retrieve, validate and write, batch by batch; publish if all of it is good."""
    from feature_repo.definition_hash import definition_hash

    started = time.monotonic()
    entity_rows = statement("labelled_rows")
    with postgres.connect() as connection:
        (expected,) = connection.execute(statement("count_labelled_rows")).fetchone() or (0,)
    with ExitStack() as stack:
        store = stack.enter_context(feast.open())
        service = store.get_feature_service(TRAINING_SERVICE)
        scratch = stack.enter_context(staging_directory(artifacts.frames.folder))
        retrieval = stack.enter_context(feast.retrieve(store, entity_rows, TRAINING_SERVICE, scratch))
        first = next(retrieval.batches)
        staged = stack.enter_context(artifacts.frames.stage(first.schema))
        validator, seen = FrameValidator(), _Counts()
        for batch in chain([first], retrieval.batches):
            rows = pa.Table.from_batches([batch])
            validator.check(rows)
            seen.add(rows)
            staged.write(rows)
        context.log.info(f"{seen.rows:,} rows and {len(first.schema)} columns in {time.monotonic() - started:.1f} s")

        failures = validator.failures()
        yield dg.AssetCheckResult(
            check_name=ENTITY_CHECK,
            passed=seen.rows == expected,
            metadata={"rows": seen.rows, "labelled_rows": expected},
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
        if failures or seen.rows != expected:
            broken = "; ".join(f"{f.column}: {f.rule} ({f.rows:,} rows, first {f.first_values})" for f in failures)
            count = "" if seen.rows == expected else f"{seen.rows:,} rows retrieved for {expected:,} labelled weeks"
            raise dg.Failure(
                f"the training frame was not published, the last good one stays: {broken}{count}", allow_retries=False
            )
        manifest = staged.publish(feature_service=TRAINING_SERVICE, feature_service_hash=definition_hash(service))
    yield dg.MaterializeResult(
        data_version=dg.DataVersion(manifest.content_hash),
        metadata={
            "dagster/row_count": manifest.rows,
            "dagster/column_schema": column_schema(first.schema, {f.name: f.description for f in FRAME_FEATURES}),
            "dagster/column_lineage": column_lineage(joined_sources(FRAME_FEATURES)),
            "first_week": manifest.first_week,
            "last_week": manifest.last_week,
            "chunks": len(manifest.chunks),
            "missing_values": markdown_table(
                ("column", "missing"),
                [(name, f"{count / seen.rows:.1%}") for name, count in seen.missing.items() if count],
            ),
            "rows_per_week": f"{min(seen.weeks.values())} to {max(seen.weeks.values())}",
            "seconds": seconds_since(started),
            "sql": sql(retrieval.sql),
        },
    )


class _Counts:
    """What the metadata says of the rows that have passed."""

    def __init__(self) -> None:
        self.rows = 0
        self.missing: Counter[str] = Counter()
        self.weeks: Counter[object] = Counter()

    def add(self, rows: pa.Table) -> None:
        self.rows += rows.num_rows
        self.missing.update({name: rows[name].null_count for name in rows.column_names})
        self.weeks.update({week["values"]: week["counts"] for week in pc.value_counts(rows[TIMESTAMP]).to_pylist()})
