"""One training: a TrainJob that makes a bundle of a published frame."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from forecast_assets.frame_store import Manifest
from forecast_assets.resources import TrainJobs, train_processes
from forecast_assets.training_progress import TrainingProgress
from forecast_assets.training_resources import ResourceLimits, TrainingResources, training_resources
from forecast_assets.trainjob import RecoveryPolicy, Remedy, TrainJobError
from trainer.errors import TrainerError
from trainer.spec import TrainSpec
from trainer.version import code_version

# Where a training reads and writes is the graph's to choose.
_PLACES = frozenset({"data_source", "feast_repo_path", "frame_path", "model_output_dir"})

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
        default=False,
        description="Train even if this frame was already trained on with the same spec and code. What was made then "
        "is left as it is.",
    )
    limits: LimitsConfig = LimitsConfig()
    deadline_seconds: int | None = Field(default=None, description="After which a training has failed.")


def train_bundle(
    context: dg.AssetExecutionContext,
    train_jobs: TrainJobs,
    config: TrainingConfig,
    *,
    frame: tuple[Path, Manifest],
    bundle: Path,
) -> tuple[dg.MaterializeResult[Any], TrainingResources]:
    """Train on ``frame`` and publish ``bundle``.

    Returns:
        What the job reported, checked against the bundle, and what it had to run on.

    Raises:
        dg.Failure: the spec or the limits mean nothing, or the job failed for good.
    """
    from kubeflow.trainer import CustomTrainerContainer

    frame_path, manifest = frame
    if ours := sorted(_PLACES & config.spec.keys()):
        raise dg.Failure(
            f"the training was not started: the spec sets {' and '.join(ours)}, which the graph chooses: leave it out",
            allow_retries=False,
        )
    try:
        spec = TrainSpec(**{"frame_path": str(frame_path), "model_output_dir": str(bundle), **config.spec})
        client = train_jobs.client()
        resources = _resources(config.limits, rows=manifest.rows, columns=len(manifest.columns), spec=spec)
    except (TrainerError, TypeError, ValueError) as error:
        raise dg.Failure(f"the training was not started: {error}", allow_retries=False) from None
    for limit in resources.limited:
        context.log.warning(f"the training is limited to {limit}: TRAIN_PROCESSES, or limits in its config, allow more")
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
            on_message=TrainingProgress(context).receive,
            verify=lambda result: _check_bundle(bundle, result),
        )
    except TrainJobError as error:
        raise dg.Failure(f"{error}. The champion stays as it was.", allow_retries=False) from None
    (result,) = job.get_results()
    return result, resources


def bundle_name(frame_hash: str, overrides: dict[str, Any]) -> str:
    """Names what determines a bundle: frame, settings, and the trainer's code."""
    settings = json.dumps([frame_hash, overrides, code_version()], sort_keys=True)
    return f"{frame_hash[:12]}-{hashlib.sha256(settings.encode()).hexdigest()[:12]}"


def repetition_name(name: str, instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """Names the bundle of a training that is asked for once more by ``run``.

    A run that repeats one that did not end well asks for the same: it goes on with that one's training.
    """
    while run.parent_run_id and (parent := instance.get_run_by_id(run.parent_run_id)) and not parent.is_success:
        run = parent
    return f"{name}-{run.run_id[:8]}"


def _check_bundle(bundle: Path, result: dg.MaterializeResult[Any]) -> None:
    """TrainerError, a ValueError, if ``bundle`` is not the one that the job reports."""
    from trainer.bundle import load_model

    load_model(bundle, data_version=result.data_version.value if result.data_version else "none reported")


def _resources(limits: LimitsConfig, *, rows: int, columns: int, spec: TrainSpec) -> TrainingResources:
    most = ResourceLimits(
        nodes=limits.nodes, cpus=limits.cpus or train_processes(), memory_gib=limits.memory_gib, gpus=limits.gpus
    )
    return training_resources(rows=rows, columns=columns, model_type=spec.model_type, limits=most)
