"""Which candidates may serve."""

from dataclasses import replace

import pytest

from forecast_assets.promotion import COVERAGE_TOLERANCE, HOLIDAY_TOLERANCE, TOLERANCE, Evidence, chance, decide

BASELINES = {"lag_1": 1_700.0, "lag_52": 1_900.0}
GOOD = Evidence(wmae=1_000.0, holiday_wmae=1_500.0, coverage=0.8, series=10_000)


def test_the_first_candidate_is_promoted_if_it_beats_the_best_baseline() -> None:
    assert decide(replace(GOOD, wmae=1_699.0), BASELINES, champion=None).promoted


def test_a_candidate_that_only_equals_the_best_baseline_is_refused_and_told_which_one() -> None:
    decision = decide(replace(GOOD, wmae=1_700.0), BASELINES, champion=None)

    assert not decision.promoted
    assert decision.refusals == ("WMAE 1,700 does not beat the best naive forecast, lag_1: 1,700",)


def test_a_candidate_within_the_tolerances_of_the_champion_is_promoted() -> None:
    candidate = replace(GOOD, wmae=1_000.0 * (1 + TOLERANCE), holiday_wmae=1_500.0 * (1 + HOLIDAY_TOLERANCE))

    assert decide(candidate, BASELINES, champion=GOOD).promoted


@pytest.mark.parametrize(
    ("candidate", "refusal"),
    [
        (replace(GOOD, wmae=1_011.0), "WMAE 1,011 is worse than the champion's 1,000 by more than 1%"),
        (
            replace(GOOD, holiday_wmae=1_580.0),
            "WMAE in holiday weeks 1,580 is worse than the champion's 1,500 by more than 5%",
        ),
        (
            replace(GOOD, coverage=0.688),
            "68.8% of the sales lie in the 80 % interval, not within 69% to 91% for 10,000 series",
        ),
        (
            replace(GOOD, coverage=0.912),
            "91.2% of the sales lie in the 80 % interval, not within 69% to 91% for 10,000 series",
        ),
    ],
)
def test_a_candidate_is_refused_by_each_rule_alone_and_told_the_numbers(candidate: Evidence, refusal: str) -> None:
    decision = decide(candidate, BASELINES, champion=GOOD)

    assert not decision.promoted
    assert decision.refusals == (refusal,)


def test_a_candidate_that_leaves_series_without_a_forecast_is_refused() -> None:
    decision = decide(GOOD, BASELINES, champion=None, series_without_forecast=3)

    assert decision.refusals == ("3 live series have no finite forecast of the coming week",)


def test_a_candidate_that_was_rolled_back_is_not_promoted_again() -> None:
    assert decide(GOOD, BASELINES, champion=None, rolled_back=True).refusals == (
        "it was rolled back by hand before: train another",
    )


def test_without_holiday_weeks_to_compare_the_holiday_rule_has_no_say() -> None:
    decision = decide(replace(GOOD, holiday_wmae=None), BASELINES, champion=GOOD)

    assert decision.promoted
    assert "champion in holiday weeks" not in [finding.rule for finding in decision.findings]


def test_few_series_say_less_about_the_coverage_than_many() -> None:
    wide = replace(GOOD, coverage=0.95)

    assert decide(replace(wide, series=24), BASELINES, champion=None).promoted
    assert not decide(replace(wide, series=400), BASELINES, champion=None).promoted


def test_chance_outweighs_the_tolerance_for_fewer_than_64_series() -> None:
    assert chance(64) == pytest.approx(COVERAGE_TOLERANCE)
    assert chance(63) > COVERAGE_TOLERANCE > chance(65)
