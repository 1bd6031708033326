"""How fast a training is, and what it takes: ``python -m benchmarks.training [--landing DIR] [--size S]``.

The MLP with its default settings, from frame to bundle, as a user would start it: by one process on all cores, by one
on one core, by two on one core each, and streamed. Beside them the usual loop over ``DataLoader(TensorDataset(…),
shuffle=True)`` with the same model, batches and optimizer, on all cores and on one, until the same epochs are over; and
as the limit the model's bare forward and backward pass over one batch that stays where it is.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.drop_frame import drop_frame, publish_frame
from benchmarks.processes import apart, without_settings
from trainer.allocator import keep_freed_memory
from trainer.bundle import read_sidecar
from trainer.dataset import Batch, Dataset
from trainer.forecaster import mean_correction
from trainer.frame import read_frame
from trainer.level import signed_exp
from trainer.metrics import evaluate
from trainer.model import build_model, model_config
from trainer.objective import loss as batch_loss
from trainer.quantiles import MEDIAN
from trainer.sampling import global_batch_size
from trainer.spec import TrainSpec

_BARE_STEPS = 500
_EPOCH_LINE = re.compile(r"INFO epoch .*rows_per_second=([\d.e+]+)")


@dataclass(frozen=True, slots=True)
class Training:
    """Wall seconds from the start of the command to the bundle; rows a second in the median, slowest and fastest epoch;
    MB resident at the end of the first and of the last epoch, and at the peak, of all processes; dollars.
    """

    seconds: float
    rows_per_second: float
    slowest_epoch: float
    fastest_epoch: float
    first_epoch_mb: float
    last_epoch_mb: float
    peak_mb: float
    wmae: float


def main() -> int:
    """Measure, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--landing", type=Path, help="folder with the three CSV files; default: the sample data")
    parser.add_argument("--size", type=float, default=1.0, help="of the sample data; 1 is that of the original")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-training-") as name:
        folder = Path(name)
        frame = publish_frame(drop_frame(arguments.landing, folder, arguments.size), folder / "frames")
        cores = len(os.sched_getaffinity(0))
        spec = TrainSpec(frame_path=str(frame), model_output_dir=str(folder / "none"))
        ours, usual, bare = {}, {}, {}
        # What is compared is measured one after the other: on a shared machine speeds change within minutes.
        for threads in {cores, 1}:
            bare[threads] = apart(_bare_rate, spec, threads)
            ours[threads] = _train(folder, frame, processes=1, threads=threads)
            usual[threads] = apart(_usual_loop, spec, threads)
        two = _train(folder, frame, processes=2, threads=1)
        streamed = _train(folder, frame, processes=1, threads=1, loading="stream")
    trained = {
        **{f"one process, cores: {threads}": each for threads, each in ours.items()},
        "two processes, a core each": two,
        "one process, streamed": streamed,
    }
    loops = {f"DataLoader(TensorDataset), cores: {threads}": each for threads, each in usual.items()}
    for title, each in (trained | loops).items():
        print(
            f"{title:36}{each.seconds:8.1f} s{each.rows_per_second:10,.0f} rows/s in the median epoch"
            f" ({each.slowest_epoch:,.0f} to {each.fastest_epoch:,.0f}){each.peak_mb:9,.0f} MB at the peak"
            f"{each.last_epoch_mb - each.first_epoch_mb:+8,.0f} MB over epochs   WMAE {each.wmae:,.0f}"
        )
    for threads, rate in bare.items():
        print(f"{f'bare forward and backward, cores: {threads}':36}{rate:20,.0f} rows/s")
    whole, one, usual_whole, usual_one = ours[cores], ours[1], usual[cores], usual[1]
    result = {
        "frame_to_bundle_seconds": round(whole.seconds, 1),
        "rows_per_second": round(whole.rows_per_second),
        "usual_rows_per_second": round(usual_whole.rows_per_second),
        "bare_rows_per_second": round(bare[cores]),
        "share_of_bare": round(whole.rows_per_second / bare[cores], 2),
        "times_faster_than_dataloader": round(whole.rows_per_second / usual_whole.rows_per_second, 2),
        "one_core_rows_per_second": round(one.rows_per_second),
        "usual_one_core_rows_per_second": round(usual_one.rows_per_second),
        "bare_one_core_rows_per_second": round(bare[1]),
        "two_processes_over_one": round(two.rows_per_second / one.rows_per_second, 2),
        "growth_over_epochs_mb": round(one.last_epoch_mb - one.first_epoch_mb),
        "streamed_rows_per_second": round(streamed.rows_per_second),
        "wmae": round(whole.wmae),
        "usual_loop_wmae": round(usual_whole.wmae),
        "trainings": {title: asdict(each) for title, each in trained.items()},
    }
    print(json.dumps(result))
    return 0


def _train(folder: Path, frame: Path, *, processes: int, threads: int, loading: str = "memory") -> Training:
    bundle = folder / f"bundle-{processes}-{threads}-{loading}"
    spec_path = folder / f"{bundle.name}.json"
    # All epochs, so that there are enough to compare.
    TrainSpec(frame_path=str(frame), model_output_dir=str(bundle), loading=loading, early_stopping_patience=100).save(
        spec_path
    )
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, "-u", *(torchrun if processes > 1 else []), "-m", "trainer", "--spec", str(spec_path)]
    started = time.monotonic()
    process = subprocess.Popen(
        command, env={**without_settings(), "OMP_NUM_THREADS": str(threads)}, stdout=subprocess.PIPE, text=True
    )
    rates, sizes, peak = [], [], 0.0
    assert process.stdout is not None  # noqa: S101
    for line in process.stdout:
        peak = max(peak, _resident_mb(process.pid))
        if epoch := _EPOCH_LINE.search(line):
            rates.append(float(epoch[1]))
            sizes.append(_resident_mb(process.pid))
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    seconds = time.monotonic() - started
    wmae = read_sidecar(bundle)["scores"]["wmae"]
    return Training(seconds, *_spread(rates), sizes[0], sizes[-1], peak, wmae)


def _usual_loop(spec: TrainSpec, threads: int) -> Training:
    """The same model, batches and optimizer as most would write it; its weights are not averaged."""
    torch.set_num_threads(threads)
    torch.manual_seed(spec.seed)
    started = time.monotonic()
    data = Dataset.of(read_frame(spec.frame_path).table, spec, torch.device("cpu"))
    rows = data.training
    tensors = TensorDataset(rows.inputs.numeric, rows.inputs.codes, rows.target, rows.weight)
    loader = DataLoader(tensors, batch_size=global_batch_size(len(rows), spec.batch_size, 1), shuffle=True)
    model = build_model(model_config(spec, data.encoder))
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=spec.learning_rate, total_steps=spec.num_epochs * len(loader), pct_start=0.05
    )
    rates, sizes = [], []
    for _ in range(spec.num_epochs):
        epoch_started = time.monotonic()
        for numeric, codes, target, weight in loader:
            batch = Batch(inputs=(numeric, codes, None), target=target, weight=weight)
            loss = batch_loss(model(*batch.inputs), batch.target, batch.weight)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), spec.grad_clip_norm)
            optimizer.step()
            schedule.step()
        rates.append(len(tensors) / (time.monotonic() - epoch_started))
        sizes.append(_resident_mb(os.getpid()))
    correction_N = mean_correction(model, data.validation.inputs)[:, MEDIAN].numpy().astype(np.float64)
    forecast_N = signed_exp(data.validation.start + correction_N)
    wmae = evaluate(data.validation.actual, forecast_N, data.validation.is_holiday)["wmae"]
    return Training(time.monotonic() - started, *_spread(rates), sizes[0], sizes[-1], max(sizes), wmae)


def _bare_rate(spec: TrainSpec, threads: int) -> float:
    """Rows a second of forward and backward passes over one batch: nothing is gathered, clipped or stepped."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    data = Dataset.of(read_frame(spec.frame_path).table, spec, torch.device("cpu"))
    batch = data.training.batch(torch.arange(global_batch_size(len(data.training), spec.batch_size, 1)))
    model = build_model(model_config(spec, data.encoder))
    seconds = []
    for _ in range(_BARE_STEPS):
        started = time.monotonic()
        model.zero_grad()
        batch_loss(model(*batch.inputs), batch.target, batch.weight).backward()
        seconds.append(time.monotonic() - started)
    return len(batch.target) / float(np.median(seconds))


def _spread(rates: Sequence[float]) -> tuple[float, float, float]:
    return float(np.median(rates)), min(rates), max(rates)


def _resident_mb(pid: int) -> float:
    """Of a process and all that it has started."""
    try:
        root = psutil.Process(pid)
        processes: Sequence[psutil.Process] = (root, *root.children(recursive=True))
        return sum(each.memory_info().rss for each in processes) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


if __name__ == "__main__":
    raise SystemExit(main())
