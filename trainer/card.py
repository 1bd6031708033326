"""What people read of a bundle: the model card and two pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.frame import floats, week_numbers
from trainer.level import Floats
from trainer.spec import TrainSpec
from trainer.training import EpochReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CARD_FILE = "MODEL_CARD.md"
LOSS_PLOT = "loss.png"
FORECAST_PLOT = "forecast.png"

_METRICS = ("wmae", "mae", "rmse", "wape", "mape")


def write_card(directory: Path, facts: Mapping[str, Any]) -> None:
    """Describe the training in a page of Markdown, from the facts of the sidecar."""
    spec, training, validation = facts["spec"], facts["training"], facts["validation"]
    rows = {"model": facts["scores"], **facts["baselines"]}
    table = [
        "| forecast | WMAE $ | MAE $ | RMSE $ | WAPE | MAPE over $1,000 |",
        "|---|---|---|---|---|---|",
        *(f"| {name} | " + " | ".join(_figure(m, scores[m]) for m in _METRICS) + " |" for name, scores in rows.items()),
    ]
    lines = [
        "# Weekly sales forecast, one week ahead",
        "",
        f"{spec['members']} perceptrons ({' x '.join(map(str, spec['hidden_dims']))}) correct the recent level of a "
        "series moved by last year's season; the forecast is their mean.",
        "",
        f"Trained on {training['rows']:,} rows, {' to '.join(training['weeks'])}; scored on the "
        f"{validation['rows']:,} rows from {' to '.join(validation['weeks'])}. "
        f"Epoch {training['best_epoch']} of {spec['num_epochs']} is kept, the one that scored best there.",
        "",
        *table,
        "",
        f"Inputs: {', '.join(facts['inputs'])}.",
        f"Frame: {facts['frame']['content_hash']}.",
        "",
    ]
    (directory / CARD_FILE).write_text("\n".join(lines), encoding="utf-8")


def _figure(metric: str, value: float) -> str:
    return f"{value:.1%}" if metric in ("wape", "mape") else f"{value:,.0f}"


def write_plots(
    directory: Path, history: Sequence[EpochReport], table: pa.Table, forecast_N: Floats, spec: TrainSpec
) -> None:
    """Draw the losses by epoch, and the largest group's forecast against its sales over the validation weeks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    epochs = [report.epoch for report in history]
    axes.plot(epochs, [report.training_loss for report in history], marker="o", label="training")
    axes.plot(epochs, [report.validation_loss for report in history], marker="o", label="validation")
    axes.set(xlabel="epoch", ylabel="loss (log dollars)", xticks=epochs)
    axes.legend()
    _save(figure, directory / LOSS_PLOT)

    sales_N, group_N = floats(table, spec.label), np.asarray(table[spec.group].to_numpy())
    groups, member_N = np.unique(group_N, return_inverse=True)
    largest = groups[np.bincount(member_N, weights=sales_N).argmax()]
    chosen_N = group_N == largest
    week_W, week_n = np.unique(week_numbers(table, spec.timestamp)[chosen_N], return_inverse=True)
    dates_W = pc.unique(table[spec.timestamp].filter(pa.array(chosen_N))).sort().to_numpy()
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    for label, value_N in (("sales", sales_N), ("forecast", forecast_N)):
        total_W = np.bincount(week_n, weights=value_N[chosen_N], minlength=len(week_W))
        axes.plot(dates_W, total_W / 1e6, marker="o", label=label)
    axes.set(ylabel="million dollars a week", title=f"{spec.group} {largest}")
    axes.tick_params(axis="x", rotation=30)
    axes.legend()
    _save(figure, directory / FORECAST_PLOT)


def _save(figure: "Figure", path: Path) -> None:
    # Without the program's name and version the picture depends on what it shows alone.
    figure.savefig(path, dpi=100, metadata={"Software": None})
