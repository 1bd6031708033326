"""The candidate: a model trained by a TrainJob."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from feature_repo.features import TAGS
from forecast_assets.assets.common import OWNERS, TRAINING_POOL
from forecast_assets.frame_checks import leaks
from forecast_assets.metadata import embedded_picture, markdown_table, seconds_since
from forecast_assets.model_store import ModelStore
from forecast_assets.resources import Artifacts, TrainJobs
from forecast_assets.tracking import track_training
from forecast_assets.training_resources import TrainingResources
from forecast_assets.training_run import TrainingConfig, bundle_name, repetition_name, train_bundle


@dg.asset(
    group_name="model",
    kinds={"pytorch", "kubeflow"},
    owners=OWNERS,
    tags=TAGS,
    deps=["training_frame"],
    pool=TRAINING_POOL,
    description="A model trained on the present frame by a TrainJob (torchrun, DDP). It does not serve. The same "
    "frame, spec and trainer code give the same bundle, so it is not trained twice.",
)
def candidate_model(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    artifacts: Artifacts,
    train_jobs: TrainJobs,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Write the spec, launch the job, and check that the bundle is the one that the job reported."""
    from trainer.bundle import bundle_hash, read_sidecar

    current = artifacts.frames.current()
    if current is None:
        raise dg.Failure("there is no training frame yet: materialize training_frame first", allow_retries=False)
    manifest = current[1]
    _check_gate(artifacts)
    models, name = artifacts.models, bundle_name(manifest.content_hash, config.spec)
    bundle, there = _place(context, models, name, retrain=config.retrain)

    if there:
        bundle = _known_before(context, models, name, bundle)
        version, facts = bundle_hash(bundle), read_sidecar(bundle)
        models.set_candidate(bundle)
        context.log.info(
            f"not trained again: frame {manifest.content_hash[:12]} gave this model before, with a validation WMAE of "
            f"{facts['scores']['wmae']:,.0f} dollars"
        )
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(version), metadata={"trained": False, **_bundle_metadata(bundle, facts)}
        )
        return

    started = time.monotonic()
    with artifacts.frames.in_use(manifest.content_hash):
        result, resources = train_bundle(context, train_jobs, config, frame=current, bundle=bundle)
    bundle = _known_before(context, models, name, bundle)
    facts = read_sidecar(bundle)
    shown = {
        "trained": True,
        "seconds": seconds_since(started),
        **_resource_metadata(resources),
        **_bundle_metadata(bundle, facts),
    }
    models.set_candidate(bundle)
    track_training(bundle, facts, data_version=bundle_hash(bundle), run_id=context.run.run_id, log=context.log)
    yield result._replace(metadata={**(result.metadata or {}), **shown})


def _place(context: dg.AssetExecutionContext, models: ModelStore, name: str, *, retrain: bool) -> tuple[Path, bool]:
    """The folder of the model that is asked for, and whether it is there. One that is whole is never trained over."""
    latest = next(iter(models.trained_as(name)), None)
    again = models.bundle(repetition_name(name, context.instance, context.run)) if retrain else None
    if latest is None:
        return again or models.bundle(name), False
    if not _is_whole(context, latest):
        return latest, False
    return (latest, True) if again in (None, latest) else (again, False)


def _is_whole(context: dg.AssetExecutionContext, bundle: Path) -> bool:
    """Whether the bundle can be used; one that was damaged is emptied, to be made again."""
    from trainer.bundle import load_model
    from trainer.errors import BundleError

    try:
        load_model(bundle)
    except BundleError as error:
        context.log.warning(f"the bundle of this frame cannot be used, so it is made again: {error}")
        shutil.rmtree(bundle)
        bundle.mkdir()  # the next run finds its name, should this one not come to its end
        return False
    return True


def _known_before(context: dg.AssetExecutionContext, models: ModelStore, name: str, bundle: Path) -> Path:
    """The bundle; or, so that no model has two names, the one of before that is the same."""
    from trainer.bundle import bundle_hash

    others = [other for other in models.trained_as(name) if other != bundle]
    same = next((other for other in others if bundle_hash(other) == bundle_hash(bundle)), None)
    if same is None or bundle == models.champion():
        return bundle
    context.log.warning(f"{bundle.name} is {same.name} to the bit, so it is not kept: another seed gives another model")
    shutil.rmtree(bundle)
    same.touch()  # it is the one trained last
    return same


def _check_gate(artifacts: Artifacts) -> None:
    """Look once more for what blocks a training: a run of its own does not see that the frame's check has failed."""
    found = leaks(artifacts.frames.load())
    if found:
        raise dg.Failure(
            f"the training was not started: the frame knows what it may not, {found[0].place}: {found[0].problem}. "
            "The champion stays as it was.",
            allow_retries=False,
        )


def _resource_metadata(resources: TrainingResources) -> dict[str, Any]:
    return {
        "resources/nodes": resources.nodes,
        "resources/cpus_per_node": resources.cpus,
        "resources/memory_gib_per_node": resources.memory_gib,
        "resources/gpus_per_node": resources.gpus,
    }


def _bundle_metadata(bundle: Path, facts: dict[str, Any]) -> dict[str, Any]:
    epochs = [(each["epoch"], f"{each['training_loss']:.4f}", f"{each['wmae']:,.0f}") for each in facts["history"]]
    compared = {"this model": facts["scores"], **facts["baselines"]}
    return {
        "scores": markdown_table(
            ("forecast", "WMAE", "MAE", "WAPE"),
            [(name, f"{s['wmae']:,.0f}", f"{s['mae']:,.0f}", f"{s['wape']:.1%}") for name, s in compared.items()],
        ),
        "epochs": markdown_table(("epoch", "training loss", "validation WMAE"), epochs),
        "validation_weeks": " to ".join(facts["validation"]["weeks"]),
        "bundle": dg.MetadataValue.path(bundle),
        **{file.stem: embedded_picture(file) for file in sorted(bundle.glob("*.png"))},
    }
