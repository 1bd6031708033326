"""The learning rate over a training."""

import math

_WARMUP_SHARE = 0.05


def warm_cosine(step: float, steps: int) -> float:
    """Learning rate factor by step: a short linear rise, then half a cosine down to 0."""
    warmup = max(1, int(steps * _WARMUP_SHARE))
    return min(1.0, (step + 1) / warmup) * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2
