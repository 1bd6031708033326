"""Figures of a benchmark, claims about them, and how a benchmark is run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of a benchmark's JSON object.

    Attributes:
        path: where it is (``fold.model.wmae``).
        text: what it is; names in braces stand for other figures of the object.
        among: names that ``*`` in the path stands for, each in turn: the lowest number counts, and the name is said.
    """

    path: str
    text: str
    unit: str = "s"
    among: tuple[str, ...] = ()

    def of(self, figures: Mapping[str, Any]) -> float | None:
        """Its value; None where the benchmark was run without this part."""
        return min(self._found(figures), default=(None, ""))[0]

    def said(self, figures: Mapping[str, Any]) -> str:
        """What it is. It has to have been measured."""
        text = self.text.format_map(figures)
        return f"{text}, {min(self._found(figures))[1]}" if self.among else text

    def _found(self, figures: Mapping[str, Any]) -> list[tuple[float, str]]:
        values = [(_at(figures, self.path.replace("*", name)), name) for name in self.among or ("",)]
        return [(float(value), name) for value, name in values if value is not None]


def _at(figures: Mapping[str, Any], path: str) -> Any:
    value: Any = figures
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A figure, with what it is held to.

    Attributes:
        bound: the most, or where ``more_is_better`` the least, that it may be.
        beside: the same of the alternative that was measured in the same run.
    """

    figure: Figure
    bound: float | None = None
    more_is_better: bool = False
    beside: Figure | None = None

    def ratio(self, figures: Mapping[str, Any]) -> float | None:
        """How many times better than the alternative."""
        ours, other = self.figure.of(figures), self.beside.of(figures) if self.beside else None
        if not ours or not other:
            return None
        return ours / other if self.more_is_better else other / ours

    def holds(self, figures: Mapping[str, Any]) -> bool | None:
        """Whether the figure is within its bound; None where it has none, or was not measured."""
        value = self.figure.of(figures)
        if value is None or self.bound is None:
            return None
        return value >= self.bound if self.more_is_better else value <= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A benchmark as it is run: ``python -m benchmarks.MODULE ARGUMENTS``.

    Attributes:
        runs: how often each side was run, and which run counts.
        note: what else a reader has to know.
        quick: the arguments of its quick form, if it has one, of which the ratios are watched.
    """

    module: str
    claims: tuple[Claim, ...]
    runs: str
    note: str = ""
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None
