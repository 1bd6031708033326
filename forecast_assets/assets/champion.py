"""The champion: the model that serves."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import ENTITY_KEYS, LABEL, TAGS, TIMESTAMP
from forecast_assets.accuracy import score
from forecast_assets.assets.common import OWNERS, TRAINING_POOL
from forecast_assets.horizon import coming_week_features
from forecast_assets.metadata import markdown_table, seconds_since
from forecast_assets.model_store import ModelStore
from forecast_assets.promotion import Decision, Evidence, decide, of_present_frame
from forecast_assets.resources import Artifacts
from forecast_assets.tracking import track_champion
from trainer.errors import TrainerError

if TYPE_CHECKING:
    from trainer.forecaster import Forecaster

_HOLIDAY = "is_holiday"
_DECISIONS_SHOWN = 10


@dg.asset(
    group_name="model",
    kinds={"pytorch"},
    owners=OWNERS,
    tags=TAGS,
    deps=["candidate_model", "training_frame"],
    pool=TRAINING_POOL,
    description="The model that serves. A candidate takes its place only if it beats the naive forecasts, is "
    "calibrated, forecasts every live series, and is not worse than the present champion on the same validation weeks.",
)
def champion_model(context: dg.AssetExecutionContext, artifacts: Artifacts) -> dg.MaterializeResult[None]:
    """Score candidate and champion on the candidate's validation rows, decide, and switch the reference if need be."""
    from trainer.bundle import bundle_hash

    started = time.monotonic()
    models = artifacts.models
    while True:
        standing = _Standing.of(artifacts)
        decision, shown = _judge(context, artifacts, standing)
        with models.deciding():
            if _Standing.of(artifacts) == standing:
                _act(context, models, decision, standing)
                models.remove_old()
                break
        context.log.warning("champion, candidate or frame were changed meanwhile: it is judged again")
    serving = standing.candidate if decision.promoted else standing.champion
    assert serving is not None  # noqa: S101 - _act raised otherwise
    track_champion(serving, log=context.log)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(bundle_hash(serving)),
        metadata={
            "promoted": decision.promoted,
            "seconds": seconds_since(started),
            "rules": markdown_table(
                ("rule", "", "finding"), [(f.rule, "✓" if f.passed else "✗", f.sentence) for f in decision.findings]
            ),
            "bundle": dg.MetadataValue.path(serving),
            "decisions": decisions_table(models),
            **shown,
        },
    )


@dataclass(frozen=True, slots=True)
class _Standing:
    """What a decision starts from, and what may change until it is acted on."""

    candidate: Path
    champion: Path | None
    rolled_back: bool
    frame: str

    @classmethod
    def of(cls, artifacts: Artifacts) -> Self:
        """Raises dg.Failure where there is nothing to judge, or nothing to judge it by."""
        models, frame = artifacts.models, artifacts.frames.current()
        candidate = models.candidate()
        if candidate is None:
            raise dg.Failure("there is no candidate yet: materialize candidate_model first", allow_retries=False)
        if frame is None:
            raise dg.Failure("there is no training frame yet: materialize training_frame first", allow_retries=False)
        return cls(candidate, models.champion(), models.was_rolled_back(candidate), frame[1].content_hash)


def _judge(
    context: dg.AssetExecutionContext, artifacts: Artifacts, standing: _Standing
) -> tuple[Decision, dict[str, Any]]:
    """What the rules say, and what of it is worth showing."""
    from trainer.baselines import score_baselines
    from trainer.bundle import load_model, read_sidecar
    from trainer.spec import TrainSpec
    from trainer.windows import validation_rows

    facts = read_sidecar(standing.candidate)
    trained_on = of_present_frame(facts["frame"]["content_hash"], standing.frame)
    if not trained_on.passed:
        return Decision((trained_on,), {}), {}
    candidate = load_model(standing.candidate)
    spec = TrainSpec(**{**facts["spec"], "frame_path": "-", "model_output_dir": "-"})
    rows = validation_rows(artifacts.frames.load(), spec)
    baselines = score_baselines(rows, label=LABEL, holiday=_HOLIDAY)
    evidence, champion_evidence = _evidence(candidate, rows), None
    if standing.champion is not None and standing.champion != standing.candidate:
        try:
            champion_evidence = _evidence(load_model(standing.champion), rows)
        except TrainerError as error:
            context.log.warning(f"the champion cannot forecast the present frame, so it has no say: {error}")
    decision = decide(
        evidence,
        {name: scores["wmae"] for name, scores in baselines.items()},
        champion_evidence,
        series_without_forecast=_series_without_forecast(candidate, artifacts),
        rolled_back=standing.rolled_back,
    )
    weeks = pc.min_max(rows[TIMESTAMP]).as_py()
    serving = evidence if decision.promoted or champion_evidence is None else champion_evidence
    return decision, {
        "validation_weeks": f"{weeks['min']:%Y-%m-%d} to {weeks['max']:%Y-%m-%d}",
        "validation_rows": rows.num_rows,
        "eval/wmae": serving.wmae,
        "eval/coverage": serving.coverage,
        **({} if serving.holiday_wmae is None else {"eval/holiday_wmae": serving.holiday_wmae}),
        **{f"baseline/{name}": scores["wmae"] for name, scores in baselines.items()},
    }


def decisions_table(models: ModelStore) -> dg.MetadataValue[Any]:
    """The last decisions, the newest first."""
    return markdown_table(
        ("when", "outcome", "bundle", "why"),
        [
            (each.decided_at, each.outcome, each.bundle, "; ".join(each.reasons))
            for each in reversed(models.decisions()[-_DECISIONS_SHOWN:])
        ],
    )


def _act(context: dg.AssetExecutionContext, models: ModelStore, decision: Decision, standing: _Standing) -> None:
    """Write the decision down, then switch the reference or leave it."""
    for finding in decision.findings:
        context.log.info(f"{'✓' if finding.passed else '✗'} {finding.rule}: {finding.sentence}")
    if standing.candidate != standing.champion:
        models.record(
            "promoted" if decision.promoted else "refused",
            standing.candidate,
            run_id=context.run.run_id,
            reasons=list(decision.refusals) or [finding.sentence for finding in decision.findings],
            numbers=decision.numbers,
        )
    if decision.promoted:
        models.promote(standing.candidate)
    elif standing.champion is None:
        raise dg.Failure(
            "the candidate is refused and there is no earlier champion, so nothing can serve: "
            + "; ".join(decision.refusals),
            allow_retries=False,
        )
    elif standing.candidate == standing.champion:
        context.log.warning(f"the champion serves on, there is no other candidate: {'; '.join(decision.refusals)}")
    else:
        context.log.warning(f"the candidate is refused, the champion stays: {'; '.join(decision.refusals)}")


def _evidence(model: "Forecaster", rows: pa.Table) -> Evidence:
    quantiles = model.predict_quantiles(rows)
    scored = pa.table(
        {
            LABEL: rows[LABEL],
            _HOLIDAY: rows[_HOLIDAY],
            **dict(zip(("p10", "forecast", "p90"), quantiles.T.copy(), strict=True)),
        }
    )
    holidays = scored.filter(pc.cast(scored[_HOLIDAY], pa.bool_()))
    overall = score(scored)
    return Evidence(
        wmae=overall["wmae"],
        holiday_wmae=score(holidays)["wmae"] if holidays.num_rows else None,
        coverage=overall["coverage"],
        series=rows.select(list(ENTITY_KEYS)).group_by(list(ENTITY_KEYS)).aggregate([]).num_rows,
    )


def _series_without_forecast(model: "Forecaster", artifacts: Artifacts) -> int:
    forecast = model.predict_quantiles(coming_week_features(artifacts.raw.load()))
    return int((~np.isfinite(forecast).all(axis=1)).sum())
