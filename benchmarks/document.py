"""The figures of ``benchmarks/results/latest.json`` as ``docs/benchmarks.md``, its picture, and the README's table."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.blocks import with_block
from benchmarks.claims import BENCHMARKS
from benchmarks.figures import Claim

_ROOT = Path(__file__).parent.parent
DOCUMENT = _ROOT / "docs" / "benchmarks.md"
PICTURE = _ROOT / "docs" / "images" / "benchmarks.png"
README = _ROOT / "README.md"
BEGIN, END = "<!-- benchmarks: written by make bench -->", "<!-- end of benchmarks -->"

# What the README shows: benchmark and figure.
_SHOWN = (
    ("pipeline", "code_location_seconds"),
    ("pipeline", "whole_graph_seconds"),
    ("pipeline", "whole_graph_again_seconds"),
    ("drop-to-forecast", "drop_to_forecasts_seconds"),
    ("ingest", "seconds"),
    ("ingest", "one_week_seconds"),
    ("retrieval", "seconds"),
    ("retrieval", "times_of_scan"),
    ("frame", "seconds"),
    ("materialize", "seconds"),
    ("online", "one_key_p50_ms"),
    ("online", "all_series_ms"),
    ("training", "frame_to_bundle_seconds"),
    ("serving", "one_p50_ms"),
    ("serving", "requests_per_second"),
)

Results = Mapping[str, Mapping[str, Any]]


def write_documents(results: Results) -> None:
    """Write all three."""
    DOCUMENT.write_text(document(results))
    README.write_text(with_summary(README.read_text(), results))
    _draw(results)


def with_summary(readme: str, results: Results) -> str:
    """The README with the table of these results."""
    return with_block(readme, BEGIN, END, _summary(results))


def document(results: Results) -> str:
    """``docs/benchmarks.md``."""
    parts = [
        "# Benchmarks\n\n"
        "Written by `make bench` from `benchmarks/results/latest.json`; nothing here is typed by hand. Where there is "
        "an alternative, it is measured in the same run, and a ratio says how many times better ours is: below 1, ours "
        "is worse. Bounds are the project's own; a figure that misses its bound says so. Memory is of the measuring "
        "process alone, without PostgreSQL, where nothing else is said.\n\n"
        "![How many times better than the alternative](images/benchmarks.png)\n"
    ]
    for claims, family in groupby(results, lambda name: BENCHMARKS[name].claims):
        names = list(family)
        table = _growth(claims, names, results) if len(names) > 1 else _table(claims, results[names[0]]["figures"])
        note = BENCHMARKS[names[0]].note
        parts += [f"\n## {', '.join(names)}\n\n{_measured(names, results)}\n\n", table, f"\n{note}\n" if note else ""]
    return "".join(parts)


def _measured(names: Sequence[str], results: Results) -> str:
    """What was measured, how, when and on what."""
    of_module = import_module(f"benchmarks.{BENCHMARKS[names[0]].module}").__doc__ or ""
    title = " ".join(of_module.split("\n\n")[0].partition(": ``")[0].split()).rstrip(".")
    commands = ", ".join(f"`{results[name]['command'].removeprefix('-m ')}`" for name in names)
    measured = {f"on {results[name]['measured']} on {_machine(results[name]['machine'])}" for name in names}
    return f"{title}. {commands}, measured {'; '.join(sorted(measured))}. {BENCHMARKS[names[0]].runs}"


def _table(claims: Sequence[Claim], figures: Mapping[str, Any]) -> str:
    rows = (_row(claim, figures) for claim in claims if claim.figure.of(figures) is not None)
    return "| | measured | bound | beside it | ratio |\n|---|---:|---:|---|---:|\n" + "".join(rows)


def _growth(claims: Sequence[Claim], names: Sequence[str], results: Results) -> str:
    """The same figures at several sizes, side by side."""
    lines = [f"| | {' | '.join(names)} |\n|---|{'---:|' * len(names)}\n"]
    for claim in claims:
        values = [claim.figure.of(results[name]["figures"]) for name in names]
        shown = ("" if value is None else _number(value, claim.figure.unit) for value in values)
        lines.append(f"| {claim.figure.text} | {' | '.join(shown)} |\n")
    return "".join(lines)


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in machine.items() if name not in {"cores", "memory_gb"})
    return f"{machine['cores']} cores and {machine['memory_gb']} GB without a GPU ({versions})"


def _row(claim: Claim, figures: Mapping[str, Any]) -> str:
    value, bound, missed = claim.figure.of(figures), "", ""
    assert value is not None  # noqa: S101 - as chosen
    if claim.bound is not None:
        bound = f"{'≥' if claim.more_is_better else '≤'} {_number(claim.bound, claim.figure.unit)}"
        missed = "" if claim.holds(figures) else " **missed**"
    ratio, times = "", claim.ratio(figures)
    if times is not None:
        ratio = f"{times:,.0f}" if times >= 10 else f"{times:.2g}"
        ratio += " **worse**" if times < 1 else ""
    shown = f"{_number(value, claim.figure.unit)}{missed}"
    return f"| {claim.figure.said(figures)} | {shown} | {bound} | {_beside(claim, figures)} | {ratio} |\n"


def _beside(claim: Claim, figures: Mapping[str, Any]) -> str:
    """The alternative's figure; nothing where there is none."""
    other = claim.beside.of(figures) if claim.beside else None
    if claim.beside is None or other is None:
        return ""
    return f"{claim.beside.said(figures)}: {_number(other, claim.figure.unit)}"


def _summary(results: Results) -> str:
    rows = ["| | measured | beside it |\n|---|---:|---|\n"]
    for name, path in _SHOWN:
        figures = results.get(name, {}).get("figures", {})
        claim = next(each for each in BENCHMARKS[name].claims if each.figure.path == path)
        value = claim.figure.of(figures)
        if value is None:
            continue
        shown = _number(value, claim.figure.unit)
        rows.append(f"| {claim.figure.said(figures)} (`{name}`) | {shown} | {_beside(claim, figures)} |\n")
    return "".join(rows)


def _number(value: float, unit: str) -> str:
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}".strip()


def _draw(results: Results) -> None:
    """How many times better than its alternative each figure is, on a logarithmic scale."""
    from matplotlib.figure import Figure as Drawing

    bars = [
        (f"{name}: {claim.figure.said(result['figures'])}", claim.ratio(result["figures"]))
        for name, result in results.items()
        for claim in BENCHMARKS[name].claims
        if claim.figure.unit not in {"MB", ""}
    ]
    shown = [(text, ratio) for text, ratio in bars if ratio is not None][::-1]
    drawing = Drawing(figsize=(9, 0.28 * len(shown) + 0.8), layout="constrained")
    axes = drawing.add_subplot()
    axes.barh([text for text, _ in shown], [ratio - 1 for _, ratio in shown], left=1, color="#4c72b0")
    for position, (_, ratio) in enumerate(shown):
        axes.text(max(ratio, 1), position, f" {ratio:.2g}", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times better than the alternative")
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    drawing.savefig(PICTURE, dpi=110)
