"""One training from spec to published bundle."""

import platform
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from trainer.baselines import score_baselines
from trainer.bundle import bundle_hash, published, write_bundle
from trainer.card import write_card
from trainer.checkpoint import CheckpointStore
from trainer.distributed import World, agreed
from trainer.evaluation import Evaluation
from trainer.fitting import fit
from trainer.forecaster import Forecaster
from trainer.frame import week_span
from trainer.loading import Prepared, agreed_manifest, choose_loading, prepare
from trainer.model import model_config
from trainer.outcome import EpochReport, Fitted
from trainer.plots import write_plots
from trainer.quantiles import QUANTILES
from trainer.recovery import adjustments_together
from trainer.report import Report
from trainer.signals import stop_on_signal
from trainer.sources import provide_frame
from trainer.spec import TrainSpec
from trainer.training import OnStep, Surroundings

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
        provide_frame(spec, world, stop)
        manifest = agreed_manifest(spec, world)
        checkpoints = CheckpointStore(
            spec.model_output_dir, frame_hash=manifest.content_hash, spec_hash=spec.identity()
        )
        adjustments = adjustments_together(checkpoints.adjustments_file, world)
        loading = adjustments.loading or choose_loading(manifest, spec, world)
        adjustments = replace(adjustments, loading=loading)
        data = prepare(manifest, spec, world, loading)
        with agreed(world):
            if world.rank == 0:
                adjustments.save(checkpoints.adjustments_file)
        config = model_config(spec, data.encoder)
        around = Surroundings(world=world, report=report, checkpoints=checkpoints, stop=stop, on_step=on_step)
        fitted, history = fit(config, data.batches, data.validation, spec, around, adjustments)
        with agreed(world):
            if world.rank == 0:
                _publish(spec, manifest.content_hash, data, fitted, history, report)
                checkpoints.remove()


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
