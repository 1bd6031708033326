"""One training from spec to published bundle."""

import platform
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from trainer.baselines import score_baselines
from trainer.bundle import bundle_hash, published, write_bundle
from trainer.card import write_card
from trainer.dataset import Dataset
from trainer.distributed import World
from trainer.errors import FrameError, TrainerError
from trainer.evaluation import Evaluation
from trainer.forecaster import Forecaster
from trainer.frame import read_frame, week_span
from trainer.plots import write_plots
from trainer.quantiles import QUANTILES
from trainer.report import Report
from trainer.spec import TrainSpec
from trainer.training import EpochReport, Fitted, fit

# What differs between two runs of the same training does not belong in a bundle that is known by its hash.
_PLACES = ("frame_path", "model_output_dir")
_TIMINGS = ("epoch_duration_sec", "rows_per_second")


def run(spec: TrainSpec, world: World, report: Report) -> None:
    """Train by `spec`; the first process publishes the bundle and reports the result.

    Raises:
        TrainerError: the frame cannot be trained on; on every process, whichever found it.
    """
    content_hash, data = _agreed_dataset(spec, world)
    fitted, history = fit(data, spec, world, lambda epoch: report.epoch(epoch.to_dict()))
    if world.rank == 0:
        _publish(spec, content_hash, data, fitted, history, report)
    world.barrier()


def _agreed_dataset(spec: TrainSpec, world: World) -> tuple[str, Dataset]:
    """The frame's content hash and its rows, or the same refusal on every process."""
    refusal = ""
    try:
        frame = read_frame(spec.frame_path)
        data = Dataset.of(frame.table, spec, world.device)
    except TrainerError as error:
        refusal = str(error)
    if first := next(filter(None, world.gather(refusal)), None):
        raise FrameError(first)
    if len(hashes := set(world.gather(frame.content_hash))) > 1:
        raise FrameError(f"the frame changed while it was read: its content hashes are {', '.join(sorted(hashes))}")
    return frame.content_hash, data


def _publish(
    spec: TrainSpec, content_hash: str, data: Dataset, fitted: Fitted, history: list[EpochReport], report: Report
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
        "training": {"rows": len(data.training), "weeks": data.training_weeks, "best_epoch": fitted.best.epoch},
        "validation": {"rows": validation.num_rows, "weeks": week_span(validation, spec.timestamp)},
        "scores": evaluation.scores,
        "interval": evaluation.interval,
        "by_group": evaluation.by_group,
        "by_week": evaluation.by_week,
        "quantiles": {"levels": QUANTILES, "calibration_rows": data.gap_table.num_rows},
        "baselines": baselines,
        "history": [{k: v for k, v in epoch.to_dict().items() if k not in _TIMINGS} for epoch in history],
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
        "training/rows": len(data.training),
        "training/epochs": len(history),
        "training/best_epoch": fitted.best.epoch,
        "validation/rows": validation.num_rows,
        "frame_content_hash": content_hash,
        "bundle_path": spec.model_output_dir,
    }
    report.result(metadata, bundle_hash(spec.model_output_dir))
