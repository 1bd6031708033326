"""How good the models are on weeks they have not seen: ``python -m benchmarks.accuracy [--landing DIR] [--tft]``.

Each fold ends the data, leaves out four weeks and scores the weeks after them, every row of them, one week ahead. The
MLP is trained with its default settings as a user would, from frame to bundle, in a process of its own; the naive
forecasts and LightGBM (absolute and squared error, on the features plus last year's sales and store and department as
categories) are scored on the same rows.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.drop_frame import drop_frame, publish_frame
from feature_repo.features import LABEL, TIMESTAMP
from trainer.bundle import read_sidecar
from trainer.frame import floats, split_masks
from trainer.metrics import evaluate
from trainer.spec import TrainSpec

GAP_WEEKS = 4
# What differs from the defaults of TrainSpec; "tft" is a preset for two cores.
PRESETS: dict[str, dict[str, Any]] = {"mlp": {}, "tft": {"batch_size": 1024}}
LIGHTGBM_FEATURES = (
    *("is_holiday", "week_of_year", "month", "quarter", "sales_lag_1", "sales_lag_2", "sales_lag_4", "sales_lag_52"),
    *("sales_rolling_mean_4", "sales_rolling_mean_12", "sales_rolling_std_4"),
    *("temperature", "fuel_price", "cpi", "unemployment", "total_markdown", "has_markdown", "store_size"),
    *(f"markdown{n}" for n in range(1, 6)),
    *("store", "dept"),
)
LIGHTGBM_PARAMETERS = {"num_leaves": 63, "learning_rate": 0.05, "verbose": -1, "seed": 0}
LIGHTGBM_TREES = 500


@dataclass(frozen=True, slots=True)
class Fold:
    """The last `weeks` weeks up to `last` are scored."""

    name: str
    last: date
    weeks: int


FOLDS = (
    Fold("Nov-Jan", date(2012, 1, 27), 13),
    Fold("spring", date(2012, 7, 27), 18),
    Fold("autumn", date(2012, 10, 26), 13),
)


def main() -> int:
    """Train, score, print a table and, as the last line, a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--landing", type=Path, help="folder with the three CSV files; default: the sample data")
    parser.add_argument("--tft", action="store_true", help="also train the Temporal Fusion Transformer")
    parser.add_argument("--size", type=float, default=1.0, help="of the sample data; 1 is 421,570 rows")
    parser.add_argument("--folds", nargs="*", help="names of the folds to run; default: all that the data reach")
    parser.add_argument("--spec", type=json.loads, default={}, help="fields of TrainSpec to set, as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-accuracy-") as folder:
        scratch = Path(folder)
        frame = drop_frame(options.landing, scratch, options.size)
        last = pc.max(frame[TIMESTAMP]).as_py().date()
        folds = [fold for fold in FOLDS if fold.last <= last and fold.name in (options.folds or [fold.name])]
        models = ["mlp", *(["tft"] if options.tft else [])]
        results = {fold.name: _scores(frame, fold, models, options.spec, scratch) for fold in folds}
    for name, rows in results.items():
        print(f"{name:28}{'WMAE':>10}{'MAE':>10}{'RMSE':>10}{'WAPE':>9}{'in 80 %':>9}{'seconds':>9}")
        for forecast, s in rows.items():
            covered = f"{s['coverage']:9.1%}" if "coverage" in s else " " * 9
            print(
                f"  {forecast:26}{s['wmae']:10,.0f}{s['mae']:10,.0f}{s['rmse']:10,.0f}{s['wape']:9.1%}"
                f"{covered}{s['seconds']:9.1f}"
            )
    print(
        json.dumps(
            {
                fold: {name: {key: round(value, 4) for key, value in s.items()} for name, s in rows.items()}
                for fold, rows in results.items()
            }
        )
    )
    return 0


def _scores(
    frame: pa.Table, fold: Fold, models: list[str], fields: dict[str, Any], scratch: Path
) -> dict[str, dict[str, float]]:
    """Every forecast's scores on the fold's rows, with the seconds it took."""
    midnight = datetime.combine(fold.last, datetime.min.time(), tzinfo=UTC)
    known = frame.filter(pc.less_equal(frame[TIMESTAMP], pa.scalar(midnight, frame.schema.field(TIMESTAMP).type)))
    path = publish_frame(known, scratch / "frames")
    found: dict[str, dict[str, float]] = {}
    for model in models:
        spec = TrainSpec(
            frame_path=str(path),
            model_output_dir=str(scratch / fold.name / model),
            **{"model_type": model, "val_size": fold.weeks, "gap_weeks": GAP_WEEKS, **PRESETS[model], **fields},
        )
        started = time.monotonic()
        _train(spec, scratch)
        facts = read_sidecar(spec.model_output_dir)
        seconds = time.monotonic() - started
        found |= {name: {**scores, "seconds": 0.0} for name, scores in facts["baselines"].items()}
        found[f"our {model.upper()}"] = {**facts["scores"], **facts["interval"], "seconds": seconds}
    for loss in ("L1", "L2"):
        found[f"LightGBM {loss}, ext"] = _lightgbm(known, spec, loss.lower())
    return found


def _train(spec: TrainSpec, scratch: Path) -> None:
    path = scratch / "spec.json"
    spec.save(path)
    command = [sys.executable, "-m", "trainer", "--spec", str(path)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise SystemExit(f"the training of {spec.model_type} failed:\n{finished.stderr[-3000:]}")


def _lightgbm(frame: pa.Table, spec: TrainSpec, objective: str) -> dict[str, float]:
    try:
        import lightgbm
    except ImportError as error:
        raise SystemExit("LightGBM is missing: pip install '.[bench]'") from error
    started = time.monotonic()
    training, validation = split_masks(frame, spec)
    x_NF = np.stack([floats(frame, name) for name in LIGHTGBM_FEATURES], axis=1)
    y_N, is_holiday_N = floats(frame, LABEL), floats(frame, spec.holiday)
    categories = [LIGHTGBM_FEATURES.index(name) for name in ("store", "dept")]
    rows = lightgbm.Dataset(x_NF[training], y_N[training], categorical_feature=categories)
    booster = lightgbm.train({**LIGHTGBM_PARAMETERS, "objective": objective}, rows, LIGHTGBM_TREES)
    forecast_N = np.asarray(booster.predict(x_NF[validation]), dtype=np.float64)
    return {
        **evaluate(y_N[validation], forecast_N, is_holiday_N[validation]),
        "seconds": time.monotonic() - started,
    }


if __name__ == "__main__":
    raise SystemExit(main())
