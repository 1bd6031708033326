"""The documents say what was measured, and a figure that has become worse is noticed."""

import json
import re

import pytest

from benchmarks.claims import BENCHMARKS
from benchmarks.document import DOCUMENT, README, document, with_summary
from benchmarks.figures import Claim, Figure
from benchmarks.processes import without_settings
from benchmarks.report import RESULTS, fallen_ratios
from feature_repo.paths import PROJECT_ROOT

LATEST = json.loads((RESULTS / "latest.json").read_text())
QUICK = json.loads((RESULTS / "quick.json").read_text())


def test_the_documents_hold_the_latest_figures_and_no_others() -> None:
    assert DOCUMENT.read_text() == document(LATEST)
    assert README.read_text() == with_summary(README.read_text(), LATEST)


def test_every_benchmark_has_been_measured_and_every_figure_found() -> None:
    missing = [
        f"{name}: {claim.figure.path}"
        for name, benchmark in BENCHMARKS.items()
        for claim in benchmark.claims
        if claim.figure.of(LATEST.get(name, {}).get("figures", {})) is None
    ]
    assert missing == []


def test_the_short_forms_are_compared_with_kept_ratios() -> None:
    assert set(QUICK) == {name for name, benchmark in BENCHMARKS.items() if benchmark.quick is not None}
    assert all(ratio > 0 for ratios in QUICK.values() for ratio in ratios.values())


def test_a_time_that_grows_by_more_than_a_quarter_beside_its_alternative_is_noticed() -> None:
    ratio, times_as_long = 5.0, (0.9, 1.24, 1.26, 1.33)

    noticed = [times for times in times_as_long if fallen_ratios({"seconds": ratio}, {"seconds": ratio / times})]

    assert noticed == [1.26, 1.33]
    assert fallen_ratios({"seconds": 5.0}, {}) == {"seconds": (5.0, 0.0)}


def test_a_benchmark_knows_none_of_the_settings_that_a_checkout_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = re.findall(r"^# ([A-Z_]+)=", (PROJECT_ROOT / ".env.example").read_text(), re.MULTILINE)
    for name in settings:
        monkeypatch.setenv(name, "anything")

    assert {"POSTGRES_HOST", "LANDING_DIR", "TRAIN_BACKEND"} <= set(settings)
    assert without_settings().keys() & settings == set()
    assert "PATH" in without_settings()


def test_of_several_alternatives_the_best_is_shown_by_its_name() -> None:
    naive = Figure("*.wmae", "the best naive forecast", "$", among=("lag_1", "lag_52", "lag_53"))
    figures = {"lag_1": {"wmae": 30.0}, "lag_52": {"wmae": 20.0}, "requests": 40_000}

    assert (naive.of(figures), naive.said(figures)) == (20.0, "the best naive forecast, lag_52")
    assert naive.of({}) is None
    assert Figure("requests", "over {requests:,} requests").said(figures) == "over 40,000 requests"


@pytest.mark.parametrize(
    ("more_is_better", "ours", "ratio", "holds"),
    [(False, 2.0, 3.0, True), (False, 12.0, 0.5, False), (True, 12.0, 2.0, True), (True, 2.0, 1 / 3, False)],
)
def test_a_ratio_says_how_many_times_better_and_a_bound_is_kept_or_missed(
    more_is_better: bool, ours: float, ratio: float, holds: bool
) -> None:
    claim = Claim(
        figure=Figure("a.seconds", "ours"),
        bound=10,
        more_is_better=more_is_better,
        beside=Figure("b.seconds", "theirs"),
    )
    figures = {"a": {"seconds": ours}, "b": {"seconds": 6.0}}
    assert claim.ratio(figures) == pytest.approx(ratio)
    assert claim.holds(figures) is holds
    assert claim.ratio({"a": {"seconds": ours}}) is None
    assert claim.holds({}) is None
