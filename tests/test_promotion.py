"""Which candidates may serve."""

from forecast_assets.promotion import TOLERANCE, decide

BASELINES = {"lag_1": {"wmae": 1_700.0}, "lag_52": {"wmae": 1_900.0}}


def test_the_first_candidate_is_promoted_if_it_beats_the_best_baseline() -> None:
    assert decide({"wmae": 1_699.0}, BASELINES, champion=None).promoted


def test_a_candidate_that_only_equals_the_best_baseline_is_refused_and_told_which_one() -> None:
    decision = decide({"wmae": 1_700.0}, BASELINES, champion=None)

    assert not decision.promoted
    assert decision.reasons == ("WMAE 1,700 does not beat the best naive forecast, lag_1: 1,700",)


def test_a_candidate_within_the_tolerance_of_the_champion_is_promoted() -> None:
    assert decide({"wmae": 1_000.0 * (1 + TOLERANCE)}, BASELINES, champion={"wmae": 1_000.0}).promoted


def test_a_candidate_worse_than_the_champion_by_more_than_the_tolerance_is_refused() -> None:
    decision = decide({"wmae": 1_011.0}, BASELINES, champion={"wmae": 1_000.0})

    assert not decision.promoted
    assert decision.reasons[-1] == "WMAE 1,011 is worse than the champion's 1,000 by more than 1%"
