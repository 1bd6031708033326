"""Rows of the frame as tensors, each with its target and weight.

Shapes: N rows, B rows of a batch, F numeric inputs, C categories, T weeks, H numbers a week.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from trainer.checks import require_trainable
from trainer.frame import evenly_spaced, floats, split_masks, week_span
from trainer.history import History
from trainer.inputs import Encoded, Encoder
from trainer.level import Floats, signed_log
from trainer.spec import TrainSpec
from trainer.windows import SalesPanel, with_windows

_LEVEL_EXPONENT = 0.6
_SMALLEST_LEVEL = 10.0

ModelInputs = tuple[Tensor, Tensor, Tensor | None]
"""What a model's forward takes: numeric_BF, codes_BC, and history_BTH or None for a model that reads none."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Inputs:
    """What a model reads of N rows, on its device."""

    numeric: Tensor
    codes: Tensor
    history: History | None

    @classmethod
    def of(cls, encoded: Encoded, history: History | None, device: torch.device) -> Self:
        """Put encoded rows on `device`, where their history already is."""
        return cls(
            numeric=torch.from_numpy(encoded.numeric).to(device),
            codes=torch.from_numpy(encoded.codes).to(device),
            history=history,
        )

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, index_B: Tensor) -> ModelInputs:
        """The inputs of some rows, by position."""
        return self.numeric[index_B], self.codes[index_B], self.history.take(index_B) if self.history else None


@dataclass(kw_only=True, slots=True, frozen=True)
class Batch:
    """Some rows of `Rows`; the fields as there.

    inputs: what the model's forward takes.
    """

    inputs: ModelInputs
    target: Tensor
    weight: Tensor


@dataclass(kw_only=True, slots=True, frozen=True)
class Rows:
    """Rows to train on or to score.

    start: float64, signed-log dollars.
    target: float32, the correction that would have been right.
    weight: float32, of the row in the loss: |level|^0.6, more in holiday weeks. An error in the logarithm costs
        dollars in proportion to the level; the full exponent would leave small series untrained.
    actual: float64 dollars.
    is_holiday: 1 in flagged holiday weeks, else 0.
    mean_weight: what the weights were divided by, so that they are 1 on average.
    """

    inputs: Inputs
    start: Floats
    target: Tensor
    weight: Tensor
    actual: Floats
    is_holiday: Floats
    mean_weight: float

    @classmethod
    def of(
        cls,
        table: pa.Table,
        encoder: Encoder,
        spec: TrainSpec,
        panel: SalesPanel | None,
        device: torch.device,
        mean_weight: float | None = None,
    ) -> Self:
        """Encode `table` and put it on `device`.

        Args:
            panel: the sales from which histories are cut, for a model that reads them.
            mean_weight: what weights are divided by, where `table` is a part of the rows; by default its own mean.
        """
        encoded = encoder.encode(table)
        history = History.of(panel.sales, panel.locate(table), encoded, device) if panel else None
        actual_N, is_holiday_N = floats(table, spec.label), floats(table, spec.holiday)
        weight_N = np.maximum(np.expm1(np.abs(encoded.level)), _SMALLEST_LEVEL) ** _LEVEL_EXPONENT
        weight_N = weight_N * np.where(is_holiday_N > 0, spec.holiday_loss_weight, 1.0)
        mean_weight = float(weight_N.mean()) if mean_weight is None else mean_weight
        return cls(
            inputs=Inputs.of(encoded, history, device),
            start=encoded.start,
            target=torch.as_tensor(signed_log(actual_N) - encoded.start, dtype=torch.float32, device=device),
            weight=torch.as_tensor(weight_N / mean_weight, dtype=torch.float32, device=device),
            actual=actual_N,
            is_holiday=is_holiday_N,
            mean_weight=mean_weight,
        )

    def __len__(self) -> int:
        return len(self.actual)

    def batch(self, index_B: Tensor) -> Batch:
        """Some rows by position, int64 on the rows' device."""
        return Batch(inputs=self.inputs.take(index_B), target=self.target[index_B], weight=self.weight[index_B])


@dataclass(kw_only=True, slots=True, frozen=True)
class Dataset:
    """A frame made ready for training.

    validation_table: the validation rows as a forecaster reads them.
    gap_table: likewise the rows between training and validation, neither learned from nor scored.
    """

    encoder: Encoder
    training: Rows
    validation: Rows
    validation_table: pa.Table
    gap_table: pa.Table
    training_weeks: tuple[str, str]

    @classmethod
    def of(
        cls,
        table: pa.Table,
        spec: TrainSpec,
        device: torch.device,
        fit: Callable[[pa.Table, TrainSpec], Encoder] = Encoder.fit,
    ) -> Self:
        """Split `table`, fit the encoder on its training rows and encode both parts.

        Args:
            fit: gives the encoder, from the training rows.

        Raises:
            FrameError: the table is too short for the split, or as `require_trainable`.
        """
        require_trainable(table, spec)
        training_mask, validation_mask = split_masks(table, spec)
        training_table = table.filter(pa.array(training_mask))
        rows = training_table.num_rows
        training_table = training_table.filter(pa.array(evenly_spaced(0, rows, rows, spec.sample_size)))
        gap_table = table.filter(pa.array(~(training_mask | validation_mask)))
        validation_table = table.filter(pa.array(validation_mask))
        encoder = fit(training_table, spec)
        panel = None
        if encoder.reads_windows:
            panel = SalesPanel.of(table, series=spec.series, timestamp=spec.timestamp, label=spec.label)
        return cls(
            encoder=encoder,
            training=Rows.of(training_table, encoder, spec, panel, device),
            validation=Rows.of(validation_table, encoder, spec, panel, device),
            validation_table=with_windows(validation_table, panel) if panel else validation_table,
            gap_table=with_windows(gap_table, panel) if panel else gap_table,
            training_weeks=week_span(training_table, spec.timestamp),
        )
