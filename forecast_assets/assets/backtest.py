"""What the system would have forecast in the past, retrained at each origin on what was known then."""

import datetime
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from feature_repo.features import TAGS, TIMESTAMP
from forecast_assets.accuracy import parts_by
from forecast_assets.assets.common import OWNERS, TRAINING_POOL
from forecast_assets.backtest import MODEL, NAIVE, origins, replay, wmae
from forecast_assets.frame_store import FrameStore, Manifest
from forecast_assets.metadata import column_schema, markdown_table, new_figure, picture, seconds_since
from forecast_assets.model_store import ModelStore
from forecast_assets.resources import Artifacts, Postgres, TrainJobs
from forecast_assets.result_table import replace_rows
from forecast_assets.training_run import TrainingConfig, bundle_name, train_bundle


class BacktestConfig(TrainingConfig):
    """Which past weeks are replayed, how far ahead, and how the model of each is trained."""

    origins: int = Field(default=1, ge=1, description="Number of past weeks from which it forecasts.")
    every: int = Field(default=4, ge=1, description="Weeks from one origin to the next.")
    horizon: int = Field(default=4, ge=1, le=39, description="Weeks forecast from each origin.")


@dg.asset(
    group_name="serving",
    kinds={"pytorch", "kubeflow"},
    owners=OWNERS,
    tags=TAGS,
    pool=TRAINING_POOL,
    deps=["training_frame"],
    description="Rolling-origin evaluation: for each of some past weeks a model is trained on the frame up to then and "
    "forecasts the weeks after it, beside naive forecasts and what was sold. Nothing follows from it: materialize it "
    "by hand, with more origins by config.",
)
def backtest(
    context: dg.AssetExecutionContext,
    config: BacktestConfig,
    artifacts: Artifacts,
    postgres: Postgres,
    train_jobs: TrainJobs,
) -> dg.MaterializeResult[None]:
    """Train and replay origin after origin, and publish the forecasts. Trainings done before are not repeated."""
    from trainer.bundle import load_model

    started = time.monotonic()
    drop, frame = artifacts.raw.load(), artifacts.frames.load()
    past_models = ModelStore(artifacts.root / "backtest" / "models")
    parts, used = [], []
    for origin in origins(drop, config.origins, config.horizon, config.every):
        known = _frame_until(frame, origin, artifacts.root / "backtest" / "frames")
        bundle = past_models.bundle(bundle_name(known[1].content_hash, config.spec))
        if config.retrain or not bundle.exists():
            train_bundle(context, train_jobs, config, frame=known, bundle=bundle)
        used.append(bundle)
        parts.append(replay(load_model(bundle), drop, origin, config.horizon))
        scores = wmae(parts[-1])
        best = min(NAIVE, key=lambda name: scores[name])
        context.log.info(f"{origin}: WMAE {scores[MODEL]:,.0f}, the best naive forecast, {best}: {scores[best]:,.0f}")
    rows = pa.concat_tables(parts)
    replace_rows(postgres.settings(), "backtest_forecasts", rows.drop_columns(list(NAIVE)))
    past_models.remove_old(used)
    overall = wmae(rows)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": rows.num_rows,
            "dagster/column_schema": column_schema(rows.schema),
            **{f"backtest/{name}": value for name, value in overall.items()},
            "seconds": seconds_since(started),
            "by_origin": _table(rows, "origin"),
            "by_weeks_ahead": _table(rows, "weeks_ahead"),
            "wmae_by_weeks_ahead": _picture(rows, artifacts),
        }
    )


def _frame_until(frame: pa.Table, origin: datetime.date, folder: Path) -> tuple[Path, Manifest]:
    """The rows of the frame up to ``origin``: each row's features knew of nothing after its own week's beginning."""
    end = pa.scalar(
        datetime.datetime.combine(origin, datetime.time(), datetime.UTC), frame.schema.field(TIMESTAMP).type
    )
    store = FrameStore(folder)
    store.publish(
        frame.filter(pc.less_equal(frame[TIMESTAMP], end)), feature_service="backtest", feature_service_hash=""
    )
    current = store.current()
    assert current is not None  # noqa: S101 - published in the line above
    return current


def _table(rows: pa.Table, column: str) -> dg.MetadataValue[Any]:
    scored = [(value, wmae(part)) for value, part in parts_by(rows, column)]
    return markdown_table(
        (column.replace("_", " "), MODEL, *NAIVE),
        [(value, *(f"{scores[name]:,.0f}" for name in (MODEL, *NAIVE))) for value, scores in scored],
    )


def _picture(rows: pa.Table, artifacts: Artifacts) -> dg.MetadataValue[Any]:
    ahead, scores = zip(*((value, wmae(part)) for value, part in parts_by(rows, "weeks_ahead")), strict=True)
    figure = new_figure()
    axes = figure.subplots()
    for name in (MODEL, *NAIVE):
        axes.plot(ahead, [each[name] for each in scores], "o-" if name == MODEL else "-", markersize=3, label=name)
    axes.set_xlabel("weeks ahead")
    axes.set_ylabel("WMAE, $")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7)
    return picture(figure, artifacts.picture("backtest"))
