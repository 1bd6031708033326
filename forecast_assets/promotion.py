"""Whether a candidate may serve: rules, each with the numbers that it was judged by."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

TOLERANCE = 0.01
HOLIDAY_TOLERANCE = 0.05  # a fold of few weeks: its WMAE varies more from one training to the next
COVERAGE = 0.80
COVERAGE_TOLERANCE = 0.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a model did on the candidate's validation rows.

    Attributes:
        wmae: dollars, over all rows.
        holiday_wmae: dollars, over the rows of flagged holiday weeks; None where there are none.
        coverage: share of the sales within the 80 % interval.
        series: how many series the rows are of.
    """

    wmae: float
    holiday_wmae: float | None
    coverage: float
    series: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule's outcome, in a sentence."""

    rule: str
    passed: bool
    sentence: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of all rules, and the numbers that they were judged by."""

    findings: tuple[Finding, ...]
    numbers: Mapping[str, Any]

    @property
    def promoted(self) -> bool:
        return all(finding.passed for finding in self.findings)

    @property
    def refusals(self) -> tuple[str, ...]:
        """What speaks against the candidate."""
        return tuple(finding.sentence for finding in self.findings if not finding.passed)


def decide(
    candidate: Evidence,
    baselines: Mapping[str, float],
    champion: Evidence | None,
    *,
    series_without_forecast: int = 0,
    rolled_back: bool = False,
) -> Decision:
    """Judge a candidate. WMAE is in dollars, lower is better, all of it on the same rows.

    Args:
        baselines: each naive forecast's WMAE by name.
        champion: the present champion, or None if there is none, if it is the candidate, or if it cannot forecast
            these rows.
        series_without_forecast: live series for which the candidate gives no finite forecast of the coming week.
        rolled_back: the candidate served before and was taken back by hand.
    """
    findings = [
        _beats_naive(candidate.wmae, baselines),
        calibrated(candidate.coverage, candidate.series, COVERAGE_TOLERANCE + chance(candidate.series)),
        _complete(series_without_forecast),
        Finding(
            "not rolled back",
            not rolled_back,
            "it was rolled back by hand before: train another" if rolled_back else "it was never rolled back",
        ),
    ]
    if champion is not None:
        findings.append(_not_worse("champion", "WMAE", candidate.wmae, champion.wmae, TOLERANCE))
        if candidate.holiday_wmae is not None and champion.holiday_wmae is not None:
            findings.append(
                _not_worse(
                    "champion in holiday weeks",
                    "WMAE in holiday weeks",
                    candidate.holiday_wmae,
                    champion.holiday_wmae,
                    HOLIDAY_TOLERANCE,
                )
            )
    numbers = {
        "candidate": asdict(candidate),
        "champion": None if champion is None else asdict(champion),
        "naive": dict(baselines),
        "series_without_forecast": series_without_forecast,
    }
    return Decision(tuple(findings), numbers)


def of_present_frame(trained_on: str, present: str) -> Finding:
    """Whether the candidate may be judged at all, by the hashes of its frame and of the present one.

    Of another frame, what are validation rows now may have been training rows.
    """
    passed = trained_on == present
    return Finding(
        "present frame",
        passed,
        "it was trained on the present frame"
        if passed
        else f"it was trained on frame {trained_on[:12]}, not on the present one, {present[:12]}, so it may have seen "
        "the validation rows: a candidate of the present frame comes by itself, or materialize candidate_model",
    )


def _beats_naive(wmae: float, baselines: Mapping[str, float]) -> Finding:
    best = min(baselines, key=lambda name: baselines[name])
    passed = wmae < baselines[best]
    verdict = "beats" if passed else "does not beat"
    return Finding(
        "naive forecasts",
        passed,
        f"WMAE {wmae:,.0f} {verdict} the best naive forecast, {best}: {baselines[best]:,.0f}",
    )


def chance(series: int) -> float:
    """How far coverage strays by chance: two standard errors of a share over so many series.

    Of series, not rows: the rows of one err together.
    """
    return 2.0 * math.sqrt(COVERAGE * (1 - COVERAGE) / series)


def calibrated(coverage: float, series: int, margin: float) -> Finding:
    """Whether the 80 % interval holds 80 % of the sales of so many series, within the margin."""
    low, high = COVERAGE - margin, COVERAGE + margin
    passed = low <= coverage <= high
    bounds = f"{'within' if passed else 'not within'} {low:.0%} to {min(high, 1):.0%} for {series:,} series"
    return Finding("coverage", passed, f"{coverage:.1%} of the sales lie in the 80 % interval, {bounds}")


def _complete(series_without_forecast: int) -> Finding:
    passed = series_without_forecast == 0
    who = "every live series has a" if passed else f"{series_without_forecast:,} live series have no"
    return Finding("coming week", passed, f"{who} finite forecast of the coming week")


def _not_worse(rule: str, name: str, candidate: float, champion: float, tolerance: float) -> Finding:
    passed = candidate <= champion * (1 + tolerance)
    return Finding(
        rule,
        passed,
        f"{name} {candidate:,.0f} is {'not worse' if passed else 'worse'} than the champion's {champion:,.0f} by more "
        f"than {tolerance:.0%}",
    )
