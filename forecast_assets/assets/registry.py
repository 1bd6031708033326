"""The Feast registry and its feature views: what the feature store knows of the tables."""

import time
from collections.abc import Iterator

import dagster as dg

from feature_repo.features import TAGS, VIEWS, View
from forecast_assets.assets.common import OWNERS
from forecast_assets.lineage import column_lineage, view_sources
from forecast_assets.metadata import feature_schema, markdown_table, seconds_since
from forecast_assets.resources import FeastStore

REGISTRY = "feast_registry"


def _view_spec(view: View) -> dg.AssetSpec:
    return dg.AssetSpec(
        view.name,
        group_name="feature_store",
        kinds={"feast", "python"} if view.on_demand else {"feast", "postgres"},
        owners=OWNERS,
        tags=TAGS,
        deps=[*view.sources, REGISTRY],
        description=f"Feature view by {', '.join(view.keys)}. {view.description}.",
        metadata={"dagster/column_schema": feature_schema(view.keys, view.features)},
    )


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            REGISTRY,
            group_name="feature_store",
            kinds={"feast", "postgres"},
            owners=OWNERS,
            tags=TAGS,
            deps=sorted({source for view in VIEWS if not view.on_demand for source in view.sources}),
            description="Entities, feature views and feature services of feature_repo/, applied to the SQL registry.",
        ),
        *(_view_spec(view) for view in VIEWS),
    ],
    can_subset=True,
)
def feast_registry(context: dg.AssetExecutionContext, feast: FeastStore) -> Iterator[dg.MaterializeResult[None]]:
    """Apply the definitions, all of them at a time. A data version is the hash of what was applied."""
    from feature_repo.definition_hash import definition_hash
    from feature_repo.definitions import ENTITIES, FEATURE_SERVICES, FEATURE_VIEWS
    from feature_repo.store import apply_definitions

    started = time.monotonic()
    with feast.open() as store:
        apply_definitions(store)
    context.log.info(
        f"{len(ENTITIES)} entities, {len(FEATURE_VIEWS)} feature views, {len(FEATURE_SERVICES)} feature services"
    )
    selected = {key.to_user_string() for key in context.selected_asset_keys}
    views = {view.name: view for view in FEATURE_VIEWS}
    if REGISTRY in selected:
        yield dg.MaterializeResult(
            asset_key=REGISTRY,
            data_version=dg.DataVersion(definition_hash(*ENTITIES, *FEATURE_VIEWS, *FEATURE_SERVICES)),
            metadata={
                "features": markdown_table(
                    ("view", "feature", "type", "description"),
                    [(view.name, f.name, f.type, f.description) for view in VIEWS for f in view.features],
                ),
                "feature_count": sum(len(view.features) for view in VIEWS),
                "services": ", ".join(service.name for service in FEATURE_SERVICES),
                "seconds": seconds_since(started),
            },
        )
    for view in VIEWS:
        if view.name in selected:
            served = [s.name for s in FEATURE_SERVICES if view.name in {p.name for p in s.feature_view_projections}]
            yield dg.MaterializeResult(
                asset_key=view.name,
                data_version=dg.DataVersion(definition_hash(views[view.name])),
                metadata={
                    "dagster/column_lineage": column_lineage(view_sources(view)),
                    "feature_count": len(view.features),
                    "services": ", ".join(served),
                },
            )
