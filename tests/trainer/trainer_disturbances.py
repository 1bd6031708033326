"""Trainings in this process, and what happens to them."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from trainer import entry
from trainer.bundle import read_sidecar
from trainer.spec import TrainSpec

OnStep = Callable[[int, nn.Module], None]


class Events:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def receive(self, event: Any) -> None:
        self.all.append(dict(event))

    def of(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self.all if event["type"] == type_]

    def error(self) -> tuple[str, str]:
        (event,) = self.of("error")
        return event["kind"], event["message"]


def small_spec(frame: Path, bundle: Path) -> TrainSpec:
    return TrainSpec(
        frame_path=str(frame),
        model_output_dir=str(bundle),
        hidden_dims=(8,),
        members=2,
        num_epochs=2,
        dropout=0.1,
        checkpoint_every=4,
    )


def train(spec: TrainSpec, on_step: OnStep = lambda _step, _model: None) -> int:
    return entry.train(lambda: spec, on_step)


def at_steps(*steps: int, do: Callable[[nn.Module], object]) -> OnStep:
    """Does something after each of some steps, the first time it is reached."""
    left = list(steps)

    def on_step(step: int, model: nn.Module) -> None:
        if step in left:
            left.remove(step)
            do(model)

    return on_step


def terminate(_model: nn.Module) -> None:
    signal.raise_signal(signal.SIGTERM)


def run_out_of_memory(_model: nn.Module) -> NoReturn:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def checkpoints(spec: TrainSpec) -> list[Path]:
    return sorted(Path(spec.model_output_dir + ".checkpoints").glob("*.pt"))


def scores(bundle: Path | str) -> list[dict[str, float]]:
    history: list[dict[str, float]] = read_sidecar(bundle)["history"]
    return history
