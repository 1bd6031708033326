import numpy as np
import pyarrow as pa
import pytest
import torch
from trainer_frames import LAGS, made_up_table, replaced

from trainer.dataset import Dataset, Inputs
from trainer.errors import FrameError
from trainer.frame import floats
from trainer.history import History
from trainer.spec import TrainSpec
from trainer.windows import WINDOW_COLUMN, WINDOW_WEEKS, SalesPanel, read_windows, with_windows

CPU = torch.device("cpu")


def panel_of(table: pa.Table) -> SalesPanel:
    return SalesPanel.of(table, series=("store", "dept"), timestamp="event_timestamp", label="weekly_sales")


def test_windows_hold_the_lags_by_calendar_week() -> None:
    table = made_up_table(weeks=80)
    windows = panel_of(table).windows(table)
    assert windows.shape == (table.num_rows, WINDOW_WEEKS)
    for lag in (lag for lag in LAGS if lag <= WINDOW_WEEKS):
        np.testing.assert_array_equal(windows[:, -lag], floats(table, f"sales_lag_{lag}"))


def test_rows_of_a_series_without_sales_have_empty_windows_and_other_weeks_are_refused() -> None:
    table = made_up_table(weeks=60)
    panel = panel_of(table)
    assert np.isnan(panel.windows(replaced(table.slice(0, 3), store=999))).all()
    later = made_up_table(weeks=70)
    with pytest.raises(FrameError, match="no window"):
        panel.windows(later)


def test_window_column_is_read_as_it_was_cut_and_is_empty_where_there_is_none() -> None:
    table = made_up_table(weeks=60)
    panel = panel_of(table)
    table = with_windows(table, panel)
    np.testing.assert_array_equal(read_windows(table), panel.windows(table))
    lists = pa.chunked_array([[[1.0] * WINDOW_WEEKS, None], [[2.0] * WINDOW_WEEKS]], pa.list_(pa.float64()))
    found = read_windows(pa.table({WINDOW_COLUMN: lists}))
    assert np.nan_to_num(found, nan=-1)[:, 0].tolist() == [1, -1, 2]
    assert np.isnan(read_windows(pa.table({WINDOW_COLUMN: pa.array([None], pa.null())}))).all()


def test_window_of_another_length_is_refused() -> None:
    with pytest.raises(FrameError, match=rf"{WINDOW_COLUMN} holds arrays of \[3\] weeks; allowed: 52"):
        read_windows(pa.table({WINDOW_COLUMN: [[1.0, 2.0, 3.0]]}))


def test_training_reads_the_same_history_as_a_forecaster() -> None:
    spec = TrainSpec(frame_path="frame", model_output_dir="bundle", model_type="tft")
    data = Dataset.of(made_up_table(), spec, CPU)
    encoded = data.encoder.encode(data.validation_table)
    served = Inputs.of(encoded, History.of_windows(read_windows(data.validation_table), encoded, CPU), CPU)
    index = torch.arange(len(served))
    for trained, read in zip(data.validation.inputs.take(index), served.take(index), strict=True):
        assert trained is not None
        assert torch.equal(trained, read)  # type: ignore[arg-type]
