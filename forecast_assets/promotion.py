"""Whether a candidate may serve: it has to beat the naive baselines, and must not be worse than the champion."""

from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCE = 0.01

Scores = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome, and a sentence per rule that was looked at."""

    promoted: bool
    reasons: tuple[str, ...]


def decide(candidate: Scores, baselines: Mapping[str, Scores], champion: Scores | None) -> Decision:
    """Compare by WMAE (dollars, lower is better), all scored on the same validation rows.

    Args:
        candidate: the candidate's scores.
        baselines: the naive forecasts' scores by name.
        champion: the present champion's scores, or None if there is none or it is the candidate.
    """
    wmae = candidate["wmae"]
    best = min(baselines, key=lambda name: baselines[name]["wmae"])
    bound = baselines[best]["wmae"]
    beats_baselines = wmae < bound
    verdict = "beats" if beats_baselines else "does not beat"
    reasons = [f"WMAE {wmae:,.0f} {verdict} the best naive forecast, {best}: {bound:,.0f}"]
    holds_champion = True
    if champion is not None:
        bound = champion["wmae"] * (1 + TOLERANCE)
        holds_champion = wmae <= bound
        reasons.append(
            f"WMAE {wmae:,.0f} is {'not worse' if holds_champion else 'worse'} than the champion's "
            f"{champion['wmae']:,.0f} by more than {TOLERANCE:.0%}"
        )
    return Decision(beats_baselines and holds_champion, tuple(reasons))
