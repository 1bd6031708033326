"""The pictures of a bundle.

Shapes: N rows, W weeks, G groups, Q quantiles.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from trainer.frame import floats
from trainer.level import Floats
from trainer.outcome import EpochReport
from trainer.quantiles import MEDIAN
from trainer.spec import TrainSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSS_PLOT = "loss.png"
FORECAST_PLOT = "forecast.png"
ERROR_PLOT = "errors.png"

_FORECAST_GROUPS = 4
_ERROR_GROUPS = 20
_LARGEST_ERROR = 0.3


def write_plots(
    directory: Path, history: Sequence[EpochReport], table: pa.Table, quantile_NQ: Floats, spec: TrainSpec
) -> None:
    """Draw the losses by epoch, the largest groups' forecasts against their sales, and the errors by week and group."""
    _save(_losses(history), directory / LOSS_PLOT)
    groups, group_N = np.unique(np.asarray(table[spec.group].to_numpy()), return_inverse=True)
    weeks, week_N = np.unique(np.asarray(table[spec.timestamp].to_numpy()), return_inverse=True)

    def totals(value_N: Floats) -> Floats:
        total_GW = np.zeros((len(groups), len(weeks)))
        np.add.at(total_GW, (group_N, week_N), value_N)
        return total_GW

    sales_GW, quantile_QGW = totals(floats(table, spec.label)), np.stack([totals(each) for each in quantile_NQ.T])
    by_size = np.argsort(-sales_GW.sum(1))
    largest = by_size[:_FORECAST_GROUPS]
    names = [f"{spec.group} {groups[each]}" for each in by_size]
    _save(_forecasts(names, weeks, sales_GW[largest], quantile_QGW[:, largest]), directory / FORECAST_PLOT)
    shown = by_size[:_ERROR_GROUPS]
    _save(_errors(names, weeks, sales_GW[shown], quantile_QGW[MEDIAN, shown]), directory / ERROR_PLOT)


def _losses(history: Sequence[EpochReport]) -> "Figure":
    figure = _new_figure(3.5)
    axes = figure.subplots()
    epochs = [report.epoch for report in history]
    axes.plot(epochs, [report.training_loss for report in history], marker="o", label="training")
    axes.plot(epochs, [report.validation_loss for report in history], marker="o", label="validation")
    axes.set(xlabel="epoch", ylabel="loss (log dollars)", xticks=epochs)
    axes.legend()
    return figure


def _forecasts(names: Sequence[str], weeks: Any, sales_GW: Floats, quantile_QGW: Floats) -> "Figure":
    figure = _new_figure(5.0)
    figure.suptitle("Sales and forecast; the band adds up the 10 % and 90 % quantiles of each series", fontsize=9)
    panels = figure.subplots(2, 2, sharex=True).flat
    for axes, name, sales_W, quantile_QW in zip(panels, names, sales_GW, quantile_QGW.transpose(1, 0, 2), strict=False):
        low_W, forecast_W, high_W = quantile_QW / 1e6
        axes.fill_between(weeks, low_W, high_W, alpha=0.25, linewidth=0)
        axes.plot(weeks, forecast_W, label="forecast")
        axes.plot(weeks, sales_W / 1e6, "k.-", linewidth=0.8, label="sales")
        axes.set_title(f"{name} (million $)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.tick_params(axis="x", rotation=30)
    figure.axes[0].legend(fontsize=7)
    return figure


def _errors(names: Sequence[str], weeks: Any, sales_GW: Floats, forecast_GW: Floats) -> "Figure":
    figure = _new_figure(5.0)
    axes = figure.subplots()
    sold_GW = np.where(sales_GW > 0, sales_GW, np.nan)
    picture = axes.imshow(
        (forecast_GW - sales_GW) / sold_GW, cmap="RdBu_r", vmin=-_LARGEST_ERROR, vmax=_LARGEST_ERROR, aspect="auto"
    )
    axes.set_yticks(range(len(sales_GW)), names[: len(sales_GW)], fontsize=7)
    axes.set_xticks(range(len(weeks)), [str(week)[:10] for week in weeks], fontsize=7, rotation=90)
    figure.colorbar(picture, label="forecast above (+) or below (-) sales", format="{x:+.0%}")
    return figure


def _new_figure(height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(7, height), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    # Without the program's name and version the picture depends on what it shows alone.
    figure.savefig(path, dpi=100, metadata={"Software": None})
