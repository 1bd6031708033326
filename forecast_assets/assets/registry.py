"""The Feast registry: what the feature store knows of the tables."""

import hashlib

import dagster as dg

from forecast_assets.assets.common import OWNERS
from forecast_assets.metadata import markdown_table
from forecast_assets.resources import FeastStore


@dg.asset(
    group_name="feature_store",
    kinds={"feast", "postgres"},
    owners=OWNERS,
    deps=["sales_features", "store_features"],
    description="Entities, feature views and feature services of feature_repo/, applied to the SQL registry.",
)
def feast_registry(context: dg.AssetExecutionContext, feast: FeastStore) -> dg.MaterializeResult[None]:
    """Apply the definitions. The data version is the hash of what was applied."""
    from feature_repo.definitions import ENTITIES, FEATURE_SERVICES, FEATURE_VIEWS

    with feast.open() as store:
        store.apply([*ENTITIES, *FEATURE_VIEWS, *FEATURE_SERVICES])
    context.log.info(
        f"{len(ENTITIES)} entities, {len(FEATURE_VIEWS)} feature views, {len(FEATURE_SERVICES)} feature services"
    )
    specs = [entity.to_proto().spec for entity in ENTITIES]
    specs += [view.to_proto().spec for view in FEATURE_VIEWS]
    specs += [service.to_proto().spec for service in FEATURE_SERVICES]
    digest = hashlib.sha256(b"".join(spec.SerializeToString(deterministic=True) for spec in specs))
    features = [
        (view.name, field.name, field.dtype, field.description) for view in FEATURE_VIEWS for field in view.features
    ]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(digest.hexdigest()),
        metadata={
            "features": markdown_table(("view", "feature", "type", "description"), features),
            "feature_count": len(features),
            "services": ", ".join(service.name for service in FEATURE_SERVICES),
        },
    )
