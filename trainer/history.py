"""The year before each row as a sequence model reads it, cut out batch by batch.

Shapes: N rows, B rows of a batch, S series, T weeks of a window, W weeks, H numbers a week.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from trainer.inputs import Encoded
from trainer.level import Floats, signed_log
from trainer.windows import WINDOW_WEEKS, Positions

HISTORY_WIDTH = 4
"""H: sales against the row's level, 1 where they are missing, sine and cosine of the week in its year."""

_LARGEST_RATIO = 4.0
_WEEKS_PER_YEAR = 365.25 / 7


@dataclass(kw_only=True, slots=True, frozen=True)
class History:
    """Sales from which the rows' windows are cut.

    log_sales: float32 [S, W], signed-log dollars, NaN where missing; held once, however many windows overlap.
    series, column: int64 [N], where each row's window starts.
    level: float32 [N], signed-log dollars.
    week: int64 [N], number of each row's own week.
    """

    log_sales: Tensor
    series: Tensor
    column: Tensor
    level: Tensor
    week: Tensor

    @classmethod
    def of(cls, sales: Floats, where: tuple[Positions, Positions], encoded: Encoded, device: torch.device) -> Self:
        """Put sales in dollars [S, W], and where the encoded rows' windows start in them, on `device`."""
        series_N, column_N = where
        return cls(
            log_sales=torch.as_tensor(signed_log(sales), dtype=torch.float32, device=device),
            series=torch.as_tensor(series_N, device=device),
            column=torch.as_tensor(column_N, device=device),
            level=torch.as_tensor(encoded.level, dtype=torch.float32, device=device),
            week=torch.as_tensor(encoded.week, device=device),
        )

    @classmethod
    def of_windows(cls, window_NT: Floats, encoded: Encoded, device: torch.device) -> Self:
        """The same for rows that each bring their window, in dollars."""
        rows = np.arange(len(window_NT))
        return cls.of(window_NT, (rows, np.zeros_like(rows)), encoded, device)

    def take(self, index_B: Tensor) -> Tensor:
        """Some rows' history_BTH, the oldest week first."""
        step_T = torch.arange(WINDOW_WEEKS, device=index_B.device)
        log_sales_BT = self.log_sales[self.series[index_B, None], self.column[index_B, None] + step_T]
        missing_BT = log_sales_BT.isnan()
        ratio_BT = (log_sales_BT - self.level[index_B, None]).clamp(-_LARGEST_RATIO, _LARGEST_RATIO)
        week_BT = self.week[index_B, None] + (step_T - WINDOW_WEEKS)
        angle_BT = week_BT * (2 * math.pi / _WEEKS_PER_YEAR)
        return torch.stack(
            [ratio_BT.masked_fill(missing_BT, 0.0), missing_BT.float(), angle_BT.sin(), angle_BT.cos()], 2
        )
