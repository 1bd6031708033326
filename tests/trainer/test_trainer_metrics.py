import numpy as np
import pytest
from trainer_frames import made_up_table, replaced

from trainer.baselines import naive_forecasts, score_baselines
from trainer.errors import FrameError
from trainer.evaluation import Evaluation
from trainer.frame import floats
from trainer.metrics import evaluate, interval_scores, score_sums, scores
from trainer.spec import TrainSpec

ACTUAL = np.array([2_000.0, 500.0, 4_000.0, -10.0])
FORECAST = np.array([1_800.0, 600.0, 5_000.0, 0.0])
HOLIDAY = np.array([0.0, 0.0, 1.0, 0.0])


def test_scores_are_those_worked_out_by_hand() -> None:
    found = evaluate(ACTUAL, FORECAST, HOLIDAY)
    assert found["wmae"] == pytest.approx((200 + 100 + 5 * 1_000 + 10) / 8)
    assert found["mae"] == pytest.approx(1_310 / 4)
    assert found["rmse"] == pytest.approx(((200**2 + 100**2 + 1_000**2 + 10**2) / 4) ** 0.5)
    assert found["wape"] == pytest.approx(1_310 / 6_510)
    assert found["mape"] == pytest.approx((200 / 2_000 + 1_000 / 4_000) / 2)


def test_sums_of_shards_score_like_all_rows_together() -> None:
    shards = [score_sums(ACTUAL[s], FORECAST[s], HOLIDAY[s]) for s in (slice(0, None, 2), slice(1, None, 2))]
    assert scores(np.sum(shards, axis=0)) == pytest.approx(evaluate(ACTUAL, FORECAST, HOLIDAY))


def test_rows_without_large_sales_have_no_relative_error() -> None:
    assert evaluate(np.zeros(2), np.ones(2), np.zeros(2))["mape"] == 0


def test_year_on_year_baseline_moves_last_year_by_recent_growth() -> None:
    table = made_up_table(weeks=70).slice(0, 3)
    table = replaced(table, sales_lag_52=100.0, sales_rolling_mean_4=60.0, sales_rolling_mean_4_lag_52=50.0)
    assert naive_forecasts(table)["lag_52_yoy"] == pytest.approx(np.full(3, 120.0))


def test_baselines_without_their_own_figure_fall_back_on_recent_sales_and_then_on_nothing() -> None:
    table = replaced(made_up_table(weeks=20).slice(0, 2), sales_lag_1=None, sales_lag_52=None)
    table = replaced(table, sales_rolling_mean_4=None, sales_rolling_mean_12=np.array([7.0, np.nan]))
    for forecast in naive_forecasts(table).values():
        assert np.nan_to_num(forecast, nan=0.0) == pytest.approx([7.0, 0.0])


def test_baselines_name_the_column_they_lack() -> None:
    with pytest.raises(FrameError, match="lacks columns: sales_lag_52"):
        score_baselines(
            made_up_table(weeks=10).drop_columns(["sales_lag_52"]), label="weekly_sales", holiday="is_holiday"
        )


def test_perfect_baseline_scores_zero() -> None:
    table = made_up_table(weeks=10)
    table = replaced(table, sales_lag_1=np.asarray(table["weekly_sales"].to_numpy()))
    assert score_baselines(table, label="weekly_sales", holiday="is_holiday")["lag_1"]["wmae"] == 0


def test_interval_scores_are_those_worked_out_by_hand() -> None:
    found = interval_scores(ACTUAL, np.array([1_900.0, 600.0, 0.0, -20.0]), np.array([2_100.0, 700.0, 3_000.0, 0.0]))
    assert found == {"coverage": 0.5, "below": 0.25, "above": 0.25, "width": (200 + 100 + 3_000 + 20) / 4}


def test_evaluation_by_department_and_by_week_adds_up_to_that_of_all_rows() -> None:
    table = made_up_table(weeks=20)
    actual_N = floats(table, "weekly_sales")
    quantile_NQ = actual_N[:, None] * np.array([0.5, 0.9, 0.99])
    found = Evaluation.of(table, quantile_NQ, TrainSpec(frame_path="frame", model_output_dir="bundle"))
    assert found.scores == evaluate(actual_N, quantile_NQ[:, 1], floats(table, "is_holiday"))
    assert found.interval["above"] == 1
    for parts in (found.by_group, found.by_week):
        for total, mean in (("rows", "coverage"), ("rows", "mae"), ("sales", "wape")):
            overall = {**found.scores, **found.interval}[mean]
            whole = sum(part[total] for part in parts.values())
            assert sum(part[total] * part[mean] for part in parts.values()) / whole == pytest.approx(overall)
    assert list(found.by_group) == ["1", "2", "3", "4", "5", "6"]
    assert next(iter(found.by_week)) == "2010-02-05"
    assert len(found.by_week) == 20
