"""What people read of a bundle: the model card."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

CARD_FILE = "MODEL_CARD.md"

_METRICS = ("wmae", "mae", "rmse", "wape", "mape")
_LARGEST_GROUPS = 10


def write_card(directory: Path, facts: Mapping[str, Any]) -> None:
    """Describe the training in a page of Markdown, from the facts of the sidecar."""
    spec, training, validation, interval = (facts[name] for name in ("spec", "training", "validation", "interval"))
    compared = {"this model": facts["scores"], **facts["baselines"]}
    groups = sorted(facts["by_group"].items(), key=lambda item: -item[1]["sales"])[:_LARGEST_GROUPS]
    lines = [
        "# Weekly sales, one week ahead",
        "",
        _description(spec),
        "",
        f"Trained on {training['rows']:,} rows, {' to '.join(training['weeks'])}; scored on the "
        f"{validation['rows']:,} rows from {' to '.join(validation['weeks'])}. "
        f"Epoch {training['best_epoch']} of {spec['num_epochs']} is kept, the one that scored best on those rows.",
        "",
        "## Accuracy",
        "",
        *_table(
            ("forecast", "WMAE $", "MAE $", "RMSE $", "WAPE", "MAPE over $1,000"),
            ((name, *(_figure(metric, scores[metric]) for metric in _METRICS)) for name, scores in compared.items()),
        ),
        "",
        "WMAE weighs weeks with a flagged holiday five times.",
        "",
        "## Uncertainty",
        "",
        f"The 10 % and 90 % quantiles should hold 80 % of the sales between them: they held "
        f"{interval['coverage']:.1%}, {interval['below']:.1%} fell below and {interval['above']:.1%} above. "
        + _calibration(facts["quantiles"]["calibration_rows"]),
        "",
        f"## The largest of each {spec['group']}",
        "",
        *_table(
            (spec["group"], "sales, million $", "WMAE $", "WAPE", "within 10 % to 90 %"),
            (
                (name, f"{s['sales'] / 1e6:,.1f}", f"{s['wmae']:,.0f}", f"{s['wape']:.1%}", f"{s['coverage']:.1%}")
                for name, s in groups
            ),
        ),
        "",
        "## Limits",
        "",
        "It forecasts the coming week from sales up to the week before. A series without sales in the last weeks "
        "starts from its older level or from that of its group. Drivers in motion for less than a year of the "
        "training weeks are not read.",
        "",
        f"Inputs: {', '.join(facts['inputs'])}.",
        "",
        f"Frame: {facts['frame']['content_hash']}.",
        "",
    ]
    (directory / CARD_FILE).write_text("\n".join(lines), encoding="utf-8")


def _description(spec: Mapping[str, Any]) -> str:
    if spec["model_type"] == "tft":
        model = (
            f"A Temporal Fusion Transformer ({spec['tft_hidden_size']} units, {spec['tft_num_heads']} heads) that "
            "reads the sales of the year before week by week corrects"
        )
    else:
        sizes = " x ".join(map(str, spec["hidden_dims"]))
        model = f"The mean of {spec['members']} perceptrons ({sizes}) corrects"
    return f"{model} the recent level of a series moved by last year's season."


def _calibration(rows: int) -> str:
    if not rows:
        return "They are as the model learned them: there was no gap of weeks to calibrate them on."
    return f"They are calibrated on the {rows:,} rows between the training and the validation weeks."


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _figure(metric: str, value: float) -> str:
    return f"{value:.1%}" if metric in ("wape", "mape") else f"{value:,.0f}"
