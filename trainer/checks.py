"""What the values of a training frame must be, beyond being there."""

import numpy as np
import pyarrow as pa

from trainer.baselines import BASELINE_COLUMNS
from trainer.errors import FrameError
from trainer.frame import floats, require_columns
from trainer.level import LEVEL_COLUMNS
from trainer.spec import TrainSpec


def require_trainable(table: pa.Table, spec: TrainSpec, first_row: int = 0) -> None:
    """Refuse rows without a finite label, and infinite features. A feature may be missing.

    One such value would make every score NaN, or the scale of a whole column.

    Args:
        first_row: the number in the frame of the table's first row.

    Raises:
        FrameError: names the column, how many of its values are wrong, and the first one's row; or the columns that
            are missing.
    """
    features = dict.fromkeys([*LEVEL_COLUMNS, *BASELINE_COLUMNS, *spec.numeric_features])
    require_columns(table, [spec.label, spec.holiday, *features])
    rows = f"of the rows {first_row} to {first_row + table.num_rows - 1}"

    def refuse(name: str, wrong_N: np.ndarray[tuple[int], np.dtype[np.bool_]], what: str, cure: str) -> None:
        if count := int(wrong_N.sum()):
            first = first_row + int(wrong_N.argmax())
            raise FrameError(f"column {name} is {what} in {count} {rows}, the first in row {first}: {cure}")

    label_N = floats(table, spec.label)
    refuse(spec.label, ~np.isfinite(label_N), "missing or not finite", "a row to learn from, or score, needs its label")
    for name in features:
        refuse(name, np.isinf(floats(table, name)), "infinite", "give a number, or null for what is not known")
