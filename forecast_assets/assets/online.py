"""The online store: the features of the coming week of every live series."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from feature_repo.features import ENTITY_KEYS, TAGS, VIEWS
from forecast_assets.assets.common import OWNERS, SERVING_POOL
from forecast_assets.lineage import column_lineage, joined_sources
from forecast_assets.metadata import feature_schema, markdown_table, seconds_since
from forecast_assets.online_state import OnlineState, why_in_full
from forecast_assets.resources import FeastStore, Postgres
from forecast_assets.sql import statement

PARITY_CHECK = "online_equals_offline"

_FEATURES = tuple(feature for view in VIEWS for feature in view.features)


class OnlineConfig(dg.Config):
    """How the online store is filled, where the asset's own choice is not wanted."""

    full: bool = Field(
        default=False,
        description="Write all stores of the last two years. Not needed after corrected weeks or changed definitions, "
        "which are noticed, but after rows were changed or lost in the online store itself.",
    )


@dg.asset(
    group_name="serving",
    kinds={"feast", "postgres"},
    owners=OWNERS,
    tags=TAGS,
    deps=[*(view.name for view in VIEWS), "champion_model"],
    pool=SERVING_POOL,
    check_specs=[
        dg.AssetCheckSpec(
            PARITY_CHECK,
            asset="online_features",
            description="Exactly the live series are served, and for each what a training would see of the same week: "
            "stored features to the bit, on-demand features to 1e-12.",
        )
    ],
    description="The features of the coming week of each live series in Feast's online store, from which its forecast "
    "is made; series that are not live are removed. On-demand features are computed here and only read after that. All "
    "is written in one transaction. Where only weeks were added since the last time, stores without a new week are "
    "left as they are; corrected weeks and changed definitions take all.",
)
def online_features(
    context: dg.AssetExecutionContext, config: OnlineConfig, feast: FeastStore, postgres: Postgres
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Materialize all feature views up to the coming week, and compare what is served with the offline store."""
    from feature_repo.materialize import last_materialized, materialize, materialize_incremental
    from feature_repo.parity import compare

    started = time.monotonic()
    with postgres.connect() as connection:
        keys = connection.execute(statement("coming_week_rows")).fetchall()
        versions = connection.execute(statement("table_versions")).fetchall()
        coming_week = keys[0][2]
        state = OnlineState.present(connection, coming_week)
    end = datetime.combine(coming_week, datetime.min.time(), tzinfo=UTC)
    with feast.open() as store, postgres.connect() as connection:
        until = last_materialized(store)
        reason: str | None = "the configuration says so"
        if not config.full:
            reason = why_in_full(_last_state(context), connection, coming_week, until and until.date())
        if reason is None:
            materialize_incremental(store, end)
        else:
            context.log.info(f"written in full: {reason}")
            materialize(store, end)
        materialized = time.monotonic()
        parity = compare(store, [(store_id, dept) for store_id, dept, _ in keys], end)
    seconds = materialized - started
    context.log.info(f"{len(keys):,} series ready for the week of {coming_week} in {seconds:.1f} s")
    yield dg.MaterializeResult(
        data_version=dg.DataVersion("-".join(version[:16] for _, version in versions)),
        metadata={
            "dagster/row_count": len(keys),
            "dagster/column_schema": feature_schema(ENTITY_KEYS, _FEATURES),
            "dagster/column_lineage": column_lineage(joined_sources(_FEATURES)),
            "seconds": round(seconds, 2),
            "in_full": reason or "no: only the weeks since the last time",
            **state.to_metadata(),
        },
    )
    for difference in parity.differences:
        context.log.error(difference)
    yield dg.AssetCheckResult(
        check_name=PARITY_CHECK,
        passed=not parity.differences,
        metadata={
            "series": parity.series,
            "features": parity.features,
            "different_values": parity.values,
            "series_not_live": len(parity.not_live),
            "series_missing": len(parity.missing),
            "first_differences": markdown_table(
                ("feature", "store", "dept", "online", "offline"),
                [(d.feature, d.store, d.dept, d.online, d.offline) for d in parity.first],
            ),
            "seconds": seconds_since(materialized),
        },
    )


def _last_state(context: dg.AssetExecutionContext) -> OnlineState | None:
    event = context.instance.get_latest_materialization_event(context.asset_key)
    materialization = event.asset_materialization if event else None
    return OnlineState.from_metadata(materialization.metadata) if materialization else None
