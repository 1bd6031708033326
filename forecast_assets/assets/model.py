"""The candidate: a model trained by a TrainJob."""

import hashlib
import importlib.resources
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from forecast_assets.assets.common import OWNERS
from forecast_assets.metadata import embedded_picture, markdown_table
from forecast_assets.resources import Artifacts
from forecast_assets.trainjob import PipesTrainJobClient, TrainJobError
from trainer.errors import TrainerError
from trainer.spec import TrainSpec


class TrainingConfig(dg.Config):
    """How the candidate is trained, where the trainer's defaults are not wanted."""

    spec: dict[str, Any] = Field(
        default={}, description='Fields of TrainSpec to set, for example {"num_epochs": 10, "seed": 7}.'
    )
    retrain: bool = Field(
        default=False, description="Train even if this frame was already trained on with the same spec and code."
    )


@dg.asset(
    group_name="model",
    kinds={"pytorch", "kubeflow"},
    owners=OWNERS,
    deps=["training_frame"],
    description="A model trained on the present frame by a TrainJob (torchrun, DDP). It does not serve. The same "
    "frame, spec and trainer code give the same bundle, so it is not trained twice.",
)
def candidate_model(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    artifacts: Artifacts,
    train_jobs: dg.ResourceParam[PipesTrainJobClient],
) -> Iterator[dg.MaterializeResult[Any]]:
    """Write the spec, launch the job, and check that the bundle is the one that the job reported."""
    from trainer.bundle import bundle_hash, load_model, read_sidecar

    current = artifacts.frames.current()
    if current is None:
        raise dg.Failure("there is no training frame yet: materialize training_frame first", allow_retries=False)
    frame_path, manifest = current
    bundle = artifacts.models.bundle(_bundle_name(manifest.content_hash, config.spec))
    try:
        spec = TrainSpec(**{"frame_path": str(frame_path), "model_output_dir": str(bundle), **config.spec})
    except (TrainerError, TypeError) as error:
        raise dg.Failure(f"the training was not started: {error}", allow_retries=False) from None

    if bundle.exists() and not config.retrain:
        load_model(bundle)
        version, facts = bundle_hash(bundle), read_sidecar(bundle)
        artifacts.models.set_candidate(bundle)
        context.log.info(
            f"not trained again: frame {manifest.content_hash[:12]} gave this model before, with a validation WMAE of "
            f"{facts['scores']['wmae']:,.0f} dollars"
        )
        yield dg.MaterializeResult(
            data_version=dg.DataVersion(version), metadata={"trained": False, **_bundle_metadata(bundle, facts)}
        )
        return

    try:
        job = train_jobs.run(
            context=context,
            module="trainer",
            spec=spec.to_dict(),
            on_message=lambda message: _log_message(context, message),
        )
    except TrainJobError as error:
        raise dg.Failure(f"{error}. The champion stays as it was.", allow_retries=False) from None
    try:
        results = job.get_results(metadata={"trained": True, **_bundle_metadata(bundle, read_sidecar(bundle))})
        (result,) = results
        load_model(bundle, data_version=result.data_version.value if result.data_version else "none reported")
    except (TrainerError, ValueError) as error:
        raise dg.Failure(f"the job's bundle is not used: {error}. The champion stays as it was.") from error
    artifacts.models.set_candidate(bundle)
    yield result


def _bundle_name(frame_hash: str, overrides: dict[str, Any]) -> str:
    """Names what determines a bundle: frame, settings, and the trainer's code."""
    code = hashlib.sha256()
    for source in sorted(importlib.resources.files("trainer").iterdir(), key=lambda entry: entry.name):
        if source.name.endswith(".py"):
            code.update(source.read_bytes())
    settings = json.dumps([frame_hash, overrides, code.hexdigest()], sort_keys=True)
    return f"{frame_hash[:12]}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"


def _log_message(context: dg.AssetExecutionContext, message: Any) -> None:
    if message.get("type") == "epoch":
        context.log.info(
            f"epoch {message['epoch']}/{message['num_epochs']}: loss {message['training_loss']:.4f}, "
            f"validation WMAE {message['wmae']:,.0f}, {message['rows_per_second']:,.0f} rows/s"
        )


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
