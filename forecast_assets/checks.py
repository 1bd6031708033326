"""Asset checks that look at a published training frame as a whole."""

from collections.abc import Iterator

import dagster as dg

from forecast_assets.automation import ANY_UPDATE
from forecast_assets.frame_checks import Finding, drifted_columns, incomplete_weeks, leaks
from forecast_assets.metadata import markdown_table
from forecast_assets.resources import Artifacts

LEAKAGE = "no_leakage"
COMPLETENESS = "complete_weeks"
DRIFT = "no_drift"


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(
            LEAKAGE,
            asset="training_frame",
            blocking=True,
            automation_condition=ANY_UPDATE,
            description="Every lag is the label of exactly that many weeks before, or missing where there is none.",
        ),
        dg.AssetCheckSpec(
            COMPLETENESS,
            asset="training_frame",
            automation_condition=ANY_UPDATE,
            description="No calendar week is missing, or has less than half the usual number of rows.",
        ),
        dg.AssetCheckSpec(
            DRIFT,
            asset="training_frame",
            automation_condition=ANY_UPDATE,
            description="No column's distribution has moved away from the frame before (population stability index).",
        ),
    ]
)
def training_frame_checks(artifacts: Artifacts) -> Iterator[dg.AssetCheckResult]:
    """Look at the current frame, and for drift at the one before."""
    frame, previous = artifacts.frames.load(), artifacts.frames.previous()
    yield _result(LEAKAGE, leaks(frame), dg.AssetCheckSeverity.ERROR)
    yield _result(COMPLETENESS, incomplete_weeks(frame), dg.AssetCheckSeverity.WARN)
    drifted = [] if previous is None else drifted_columns(frame, previous)
    yield _result(DRIFT, drifted, dg.AssetCheckSeverity.WARN)


def _result(name: str, findings: list[Finding], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key="training_frame",
        check_name=name,
        passed=not findings,
        severity=severity,
        metadata={"findings": markdown_table(("where", "what"), [(f.place, f.problem) for f in findings[:50]])},
    )
