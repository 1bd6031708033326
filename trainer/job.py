"""One training from spec to published bundle."""

import platform
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist

from trainer.baselines import score_baselines
from trainer.bundle import bundle_hash, published, require_replaceable, write_bundle
from trainer.card import write_card
from trainer.checkpoint import CheckpointStore
from trainer.distributed import World, agreed, patiently
from trainer.evaluation import Evaluation
from trainer.fitting import fit
from trainer.forecaster import Forecaster
from trainer.frame import week_span
from trainer.learner import amp_dtype
from trainer.loading import Prepared, agreed_manifest, prepare, with_loading
from trainer.model import model_config
from trainer.outcome import EpochReport, Fitted
from trainer.plots import write_plots
from trainer.quantiles import QUANTILES
from trainer.recovery import Adjustments, adjustments_together
from trainer.report import Report
from trainer.signals import stop_on_signal
from trainer.sources import provide_frame
from trainer.spec import TrainSpec
from trainer.training import OnStep, Surroundings
from trainer.version import code_version

# What differs between two runs of the same training does not belong in a bundle that is known by its hash.
_PLACES = ("frame_path", "model_output_dir", "feast_repo_path")
_OF_THE_MACHINE = ("epoch_duration_sec", "rows_per_second", "gpu_utilization", "memory_allocated_gb")


def run(spec: TrainSpec, world: World, report: Report, on_step: OnStep = lambda _step, _model: None) -> None:
    """Train by `spec`, from the last checkpoint if there is one; the first process publishes and reports the result.

    Args:
        on_step: called after every step with the number of steps so far and the model.

    Raises:
        TrainerError: the spec, the frame or a checkpoint cannot be trained on.
        TrainingFailure: something went wrong on the way, or a signal ended it; `trainer.fitting.fit` and
            `trainer.sources.provide_frame` say what. All processes raise the same, but for a device without memory.
    """
    with stop_on_signal() as stop:
        with agreed(world):
            if world.rank == 0:
                require_replaceable(spec.model_output_dir)
        provide_frame(spec, world, stop)
        manifest = agreed_manifest(spec, world)
        checkpoints = CheckpointStore(
            spec.model_output_dir,
            frame_hash=manifest.content_hash,
            spec_hash=spec.identity(),
            code_hash=code_version(),
        )
        adjustments = adjustments_together(checkpoints.adjustments_file, world).for_learning_rate(spec.learning_rate)
        adjustments = with_loading(adjustments, checkpoints, manifest, spec, world)
        data = prepare(manifest, spec, world, adjustments.loading, adjustments.workers)
        with agreed(world):
            if world.rank == 0:
                adjustments.save(checkpoints.adjustments_file)
        report.event("started", _started(spec, world, data, adjustments))
        config = model_config(spec, data.encoder)
        around = Surroundings(world=world, report=report, checkpoints=checkpoints, stop=stop, on_step=on_step)
        fitted, history = fit(config, data.batches, data.validation, spec, around, adjustments)
        with agreed(world), patiently(world):
            if world.rank == 0:
                _publish(spec, manifest.content_hash, data, fitted, history, report)
                checkpoints.remove()


def _started(spec: TrainSpec, world: World, data: Prepared, adjustments: Adjustments) -> dict[str, Any]:
    """What was left open until now. Not in the bundle: a training may go on elsewhere, and end in the same."""
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "cpu"
    return {
        "device": device,
        "backend": dist.get_backend(world.gradients) if world.size > 1 else "none",
        "processes": world.size,
        "loading": adjustments.loading,
        "workers": adjustments.workers,
        "batch_size": data.batches.batch_size,
        "precision": str(amp_dtype(spec, world.device)).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def _publish(
    spec: TrainSpec, content_hash: str, data: Prepared, fitted: Fitted, history: list[EpochReport], report: Report
) -> None:
    validation = data.validation_table
    # Scored as it will be served: by the forecaster that the bundle holds.
    forecaster = Forecaster(encoder=data.encoder, model=fitted.model).calibrated(data.gap_table, spec.label)
    quantile_NQ = forecaster.predict_quantiles(validation)
    evaluation = Evaluation.of(validation, quantile_NQ, spec)
    baselines = score_baselines(validation, label=spec.label, holiday=spec.holiday)
    facts: dict[str, Any] = {
        "frame": {"content_hash": content_hash},
        "spec": {name: value for name, value in spec.to_dict().items() if name not in _PLACES},
        "inputs": [each.name for each in data.encoder.inputs],
        "training": {"rows": data.training_rows, "weeks": data.training_weeks, "best_epoch": fitted.best.epoch},
        "validation": {"rows": validation.num_rows, "weeks": week_span(validation, spec.timestamp)},
        "scores": evaluation.scores,
        "interval": evaluation.interval,
        "by_group": evaluation.by_group,
        "by_week": evaluation.by_week,
        "quantiles": {"levels": QUANTILES, "calibration_rows": data.gap_table.num_rows},
        "baselines": baselines,
        "history": [{k: v for k, v in epoch.to_dict().items() if k not in _OF_THE_MACHINE} for epoch in history],
        "versions": {
            "code": code_version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
        },
    }
    with published(spec.model_output_dir) as directory:
        write_card(directory, facts)
        write_plots(directory, history, validation, quantile_NQ, spec)
        write_bundle(directory, fitted=fitted, forecaster=forecaster, facts=facts)
    metadata: dict[str, float | str] = {
        **{f"eval/{metric}": value for metric, value in {**evaluation.scores, **evaluation.interval}.items()},
        **{f"baseline/{name}/{metric}": v for name, each in baselines.items() for metric, v in each.items()},
        "training/rows": data.training_rows,
        "training/epochs": len(history),
        "training/best_epoch": fitted.best.epoch,
        "validation/rows": validation.num_rows,
        "frame_content_hash": content_hash,
        "bundle_path": spec.model_output_dir,
    }
    report.result(metadata, bundle_hash(spec.model_output_dir))
