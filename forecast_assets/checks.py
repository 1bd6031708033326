"""Asset checks that look at a published training frame as a whole."""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from forecast_assets.automation import ANY_UPDATE
from forecast_assets.drift import stability
from forecast_assets.frame_checks import Finding, incomplete_weeks, leaks
from forecast_assets.metadata import markdown_table, stability_table
from forecast_assets.resources import Artifacts

LEAKAGE = "no_leakage"
COMPLETENESS = "complete_weeks"
DRIFT = "no_drift"
_SHOWN = 50


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
    yield _findings(LEAKAGE, leaks(frame), dg.AssetCheckSeverity.ERROR)
    yield _findings(COMPLETENESS, incomplete_weeks(frame), dg.AssetCheckSeverity.WARN)
    columns = [] if previous is None else stability(frame, previous)
    drifted = [column for column in columns if column.drifted]
    reason = {"reason": drifted[0].sentence} if drifted else {}
    yield _result(DRIFT, not drifted, dg.AssetCheckSeverity.WARN, {**reason, "stability": stability_table(columns)})


def _findings(name: str, findings: list[Finding], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    table = markdown_table(("where", "what"), [(f.place, f.problem) for f in findings[:_SHOWN]])
    first = {"reason": f"{findings[0].place}: {findings[0].problem}"} if findings else {}
    return _result(name, not findings, severity, {**first, "findings": table})


def _result(
    name: str, passed: bool, severity: dg.AssetCheckSeverity, metadata: Mapping[str, Any]
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key="training_frame", check_name=name, passed=passed, severity=severity, metadata=metadata
    )
