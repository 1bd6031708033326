"""The documents say what was measured, and a figure that has become worse is noticed."""

import json

import pytest

from benchmarks.claims import BENCHMARKS, Claim, Figure
from benchmarks.document import DOCUMENT, README, document, with_summary
from benchmarks.report import RESULTS

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
