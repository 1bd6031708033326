"""The weeks before each row as one array a row, the oldest first; NaN for a week without sales.

The training cuts it from the labels of the frame itself, where it is the array that the feature store's window view
serves, to the bit. A table to be forecast brings it as a column.

Shapes: N rows, S series, T weeks of a window, W weeks of the frame after T empty ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainer.errors import FrameError
from trainer.frame import floats, require_columns, split_masks, week_numbers
from trainer.level import Floats
from trainer.spec import TrainSpec

WINDOW_WEEKS = 52
WINDOW_COLUMN = f"sales_window_{WINDOW_WEEKS}"

Positions = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(kw_only=True, slots=True, frozen=True)
class SalesPanel:
    """Sales by series and calendar week.

    sales: float64 dollars [S + 1, T + W]; the last series is the one of rows that belong to none, without sales.
    keys: of each series, as text.
    first_week: number of the frame's first week.
    """

    sales: Floats
    keys: pa.Array
    first_week: int
    series: tuple[str, ...]
    timestamp: str

    @classmethod
    def of(cls, table: pa.Table, *, series: Sequence[str], timestamp: str, label: str) -> Self:
        """Lay out the labels of `table`, one row per series and week.

        Raises:
            FrameError: a column is missing.
        """
        require_columns(table, [*series, timestamp, label])
        key_N, week_N = _keys(table, series), week_numbers(table, timestamp)
        keys = pc.unique(key_N)
        first_week, last_week = int(week_N.min()), int(week_N.max())
        sales = np.full((len(keys) + 1, WINDOW_WEEKS + last_week - first_week + 1), np.nan)
        sales[pc.index_in(key_N, value_set=keys).to_numpy(), WINDOW_WEEKS + week_N - first_week] = floats(table, label)
        return cls(sales=sales, keys=keys, first_week=first_week, series=tuple(series), timestamp=timestamp)

    def locate(self, table: pa.Table) -> tuple[Positions, Positions]:
        """Each row's series, and the column where its window starts.

        Raises:
            FrameError: a column is missing, or a row is of a week that is not the frame's nor the one after it.
        """
        require_columns(table, [*self.series, self.timestamp])
        series_N = pc.index_in(_keys(table, self.series), value_set=self.keys).fill_null(len(self.keys)).to_numpy()
        column_N = week_numbers(table, self.timestamp) - self.first_week
        if len(column_N) and not 0 <= column_N.min() <= column_N.max() <= self.sales.shape[1] - WINDOW_WEEKS:
            raise FrameError("a row is of a week for which the frame has no window")
        return np.asarray(series_N, dtype=np.int64), column_N

    def windows(self, table: pa.Table) -> Floats:
        """The window of each row, in dollars; float64 [N, T]. Raises as `locate`."""
        series_N, column_N = self.locate(table)
        return self.sales[series_N[:, None], column_N[:, None] + np.arange(WINDOW_WEEKS)]


def with_windows(table: pa.Table, panel: SalesPanel) -> pa.Table:
    """`table` with its rows' windows as the column that a forecaster reads."""
    window_NT = panel.windows(table)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(window_NT.ravel()), WINDOW_WEEKS)
    return table.append_column(WINDOW_COLUMN, lists.cast(pa.list_(pa.float64())))


def validation_rows(table: pa.Table, spec: TrainSpec) -> pa.Table:
    """The rows of the frame `table` that a training by `spec` scores, as any forecaster can read them.

    Raises:
        FrameError: as `split_masks`, or a column is missing.
    """
    panel = SalesPanel.of(table, series=spec.series, timestamp=spec.timestamp, label=spec.label)
    return with_windows(table.filter(pa.array(split_masks(table, spec)[1])), panel)


def read_windows(table: pa.Table) -> Floats:
    """The window column of `table`, in dollars; float64 [N, T], NaN throughout for a row without one.

    Raises:
        FrameError: the column is missing, or an array in it is not as long as it must be.
    """
    require_columns(table, [WINDOW_COLUMN])
    column = table[WINDOW_COLUMN].cast(pa.list_(pa.float64())).combine_chunks()
    lengths = pc.unique(pc.list_value_length(column).drop_null()).to_pylist()
    if lengths not in ([], [WINDOW_WEEKS]):
        raise FrameError(f"column {WINDOW_COLUMN} holds arrays of {lengths} weeks; allowed: {WINDOW_WEEKS}")
    window_NT = np.full((table.num_rows, WINDOW_WEEKS), np.nan)
    window_NT[column.is_valid().to_numpy(zero_copy_only=False)] = (
        pc.list_flatten(column).to_numpy(zero_copy_only=False).reshape(-1, WINDOW_WEEKS)
    )
    return window_NT


def _keys(table: pa.Table, series: Sequence[str]) -> pa.Array:
    texts = [table[name].cast(pa.string()).combine_chunks() for name in series]
    return pc.binary_join_element_wise(*texts, "|")
