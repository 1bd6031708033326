"""The job that lets an earlier model serve again."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from forecast_assets.assets.champion import decisions_table
from forecast_assets.model_store import ModelStore
from forecast_assets.resources import Artifacts
from forecast_assets.tracking import track_champion
from trainer.errors import TrainerError


class RollbackConfig(dg.Config):
    """Which model is to serve."""

    bundle: str = Field(
        default="",
        description="Name of a kept bundle, a folder under models/bundles. Without it, the one that served before the "
        "present champion, and was not itself rolled back.",
    )


@dg.op
def roll_back(context: dg.OpExecutionContext, config: RollbackConfig, artifacts: Artifacts) -> None:
    """Switch the champion's reference to a kept bundle; the one that served is not promoted again by itself."""
    from trainer.bundle import bundle_hash

    models = artifacts.models
    with models.deciding():
        present = models.champion()
        bundle = _target(models, config.bundle)
        before = present.name if present else "no model"
        models.record("rolled back", bundle, run_id=context.run_id, reasons=[f"by hand, {before} served"], numbers={})
        models.promote(bundle)
    track_champion(bundle, log=context.log)
    context.log.info(f"{bundle.name} serves again in place of {before}")
    context.log_event(
        dg.AssetMaterialization(
            "champion_model",
            metadata={"promoted": False, "bundle": dg.MetadataValue.path(bundle), "decisions": decisions_table(models)},
            tags={"dagster/data_version": bundle_hash(bundle)},
        )
    )


def _target(models: ModelStore, named: str) -> Path:
    """The bundle that is to serve.

    Raises:
        dg.Failure: it is not known, not there, damaged, or it serves already.
    """
    from trainer.bundle import load_model

    name = named or next((bundle.name for bundle in models.served_before()), None)
    kept = [path.name for path in models.kept()]
    if name is None or name not in kept:
        wanted = "no earlier champion is known" if not name else f"there is no bundle {name!r}"
        raise dg.Failure(f"not rolled back: {wanted}. Set bundle to one of: {', '.join(kept)}", allow_retries=False)
    bundle = models.bundle(name)
    if bundle == models.champion():
        raise dg.Failure(f"not rolled back: {name} is the champion already", allow_retries=False)
    try:
        load_model(bundle)
    except TrainerError as error:
        raise dg.Failure(f"not rolled back, the champion stays: {error}", allow_retries=False) from None
    return bundle


@dg.job(description="Let an earlier model serve again. Then materialize online_features and weekly_forecasts.")
def rollback() -> None:
    """One switch, written down."""
    roll_back()
