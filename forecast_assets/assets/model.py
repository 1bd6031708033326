"""The candidate: a model trained by a TrainJob."""

import hashlib
import importlib.resources
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from forecast_assets.assets.common import OWNERS
from forecast_assets.metadata import embedded_picture, markdown_table
from forecast_assets.resources import Artifacts, TrainJobs, train_processes
from forecast_assets.training_progress import TrainingProgress
from forecast_assets.training_resources import ResourceLimits, TrainingResources, training_resources
from forecast_assets.trainjob import RecoveryPolicy, Remedy, TrainJobError
from trainer.errors import TrainerError
from trainer.spec import TrainSpec

# By the kind of failure; what is not here needs a person. Each attempt goes on from the last checkpoint.
RECOVERY: RecoveryPolicy = {
    "out_of_memory": Remedy("half as much memory again", memory_factor=1.5),
    "cuda_out_of_memory": Remedy(
        "half the batch, gradient checkpointing", multiply={"batch_size": 0.5}, replace={"gradient_checkpointing": True}
    ),
    "collective_timeout": Remedy("gloo in place of NCCL", replace={"backend": "gloo"}),
    "diverged": Remedy("a third of the learning rate", multiply={"learning_rate": 1 / 3}),
    "killed": Remedy("the same again"),
    "preempted": Remedy("the same again"),
    "node_lost": Remedy("the same again"),
    "rendezvous_timeout": Remedy("the same again"),
    "checkpoint_write": Remedy("the same again"),
    "lost_database": Remedy("the same again"),
}


class LimitsConfig(dg.Config):
    """The most that a training may ask for; what is computed from the frame is cut off there."""

    nodes: int = Field(default=1, ge=1)
    cpus: int | None = Field(default=None, description="Of a node; without it, TRAIN_PROCESSES, else 2.")
    memory_gib: float = Field(default=16.0, gt=0, description="Of a node.")
    gpus: int = Field(default=0, ge=0, description="Of a node.")


class TrainingConfig(dg.Config):
    """How the candidate is trained, where the trainer's defaults are not wanted."""

    spec: dict[str, Any] = Field(
        default={}, description='Fields of TrainSpec to set, for example {"num_epochs": 10, "seed": 7}.'
    )
    retrain: bool = Field(
        default=False, description="Train even if this frame was already trained on with the same spec and code."
    )
    limits: LimitsConfig = LimitsConfig()
    deadline_seconds: int | None = Field(default=None, description="After which a training has failed.")


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
    train_jobs: TrainJobs,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Write the spec, launch the job, and check that the bundle is the one that the job reported."""
    from kubeflow.trainer import CustomTrainerContainer

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
        client = train_jobs.client()
        resources = _resources(config.limits, rows=manifest.rows, columns=len(manifest.columns), spec=spec)
    except ValueError as error:
        raise dg.Failure(f"the training was not started: {error}", allow_retries=False) from None
    for limit in resources.limited:
        context.log.warning(f"the training is limited to {limit}")
    progress = TrainingProgress(context)
    try:
        job = client.run(
            context=context,
            # Without an image, that of the training runtime; on this machine there is none.
            trainer=CustomTrainerContainer(image=os.environ.get("TRAIN_IMAGE", "")),
            command=["torchrun"],
            args=["-m", "trainer", "--spec", "{spec}"],
            spec=spec.to_dict(),
            num_nodes=resources.nodes,
            resources_per_node=resources.per_node(),
            deadline_seconds=config.deadline_seconds,
            # Whoever wants this bundle wants this job: a run after a crash adopts it.
            identity=bundle.name,
            recovery=RECOVERY,
            on_message=progress.receive,
            verify=lambda result: _check_bundle(bundle, result),
        )
    except TrainJobError as error:
        raise dg.Failure(f"{error}. The champion stays as it was.", allow_retries=False) from None
    shown = {"trained": True, **_resource_metadata(resources), **_bundle_metadata(bundle, read_sidecar(bundle))}
    (result,) = job.get_results(metadata=shown)
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


def _check_bundle(bundle: Path, result: dg.MaterializeResult[Any]) -> None:
    """TrainerError, a ValueError, if ``bundle`` is not the one that the job reports."""
    from trainer.bundle import load_model

    load_model(bundle, data_version=result.data_version.value if result.data_version else "none reported")


def _resources(limits: LimitsConfig, *, rows: int, columns: int, spec: TrainSpec) -> TrainingResources:
    most = ResourceLimits(
        nodes=limits.nodes, cpus=limits.cpus or train_processes(), memory_gib=limits.memory_gib, gpus=limits.gpus
    )
    return training_resources(rows=rows, columns=columns, model_type=spec.model_type, limits=most)


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
