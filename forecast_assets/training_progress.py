"""A training in the UI while it runs: a row per epoch, its numbers as plots, progress and time left."""

from typing import Any

import dagster as dg


class TrainingProgress:
    """Receives the trainer's messages; what it does not know it shows as they are."""

    def __init__(self, context: dg.AssetExecutionContext) -> None:
        self._context = context

    def receive(self, message: Any) -> None:
        """Show a message."""
        match message:
            case {"type": "epoch"}:
                self._epoch(message)
            case {"type": "error", "message": text}:
                self._context.log.error(f"the training says: {text}")
            case {"type": str(what)}:
                fields = ", ".join(f"{name} {value}" for name, value in message.items() if name != "type")
                self._context.log.info(f"the training says: {what}: {fields}")
            case _:
                self._context.log.info(f"the training says: {message}")

    def _epoch(self, epoch: dict[str, Any]) -> None:
        done = epoch["epoch"] / epoch["num_epochs"]
        seconds_left = (epoch["num_epochs"] - epoch["epoch"]) * epoch["epoch_duration_sec"]
        row = (
            f"epoch {epoch['epoch']}/{epoch['num_epochs']}: loss {epoch['training_loss']:.4f}, "
            f"validation WMAE {epoch['wmae']:,.0f}, {epoch['rows_per_second']:,.0f} rows/s, "
            f"{done:.0%}"
        )
        if seconds_left >= 1:
            row += f", at most {_duration(seconds_left)} left"
        self._context.log.info(row)
        numbers = {
            "live/training_loss": float(epoch["training_loss"]),
            "live/wmae": float(epoch["wmae"]),
            "live/epoch": int(epoch["epoch"]),
            "live/progress_percent": 100 * done,
            "live/seconds_left": float(seconds_left),
        }
        # Observations, unlike log lines, are plotted over time on the asset's page.
        self._context.log_event(dg.AssetObservation(self._context.asset_key, description=row, metadata=numbers))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
