"""What a training frame may not hold, and what is worth a look."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_repo.features import TIMESTAMP
from forecast_assets.frame_checks import incomplete_weeks, leaks
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table


@pytest.fixture(scope="module")
def frame(small_drop: Path) -> pa.Table:
    rows = sales_features_table(read_drop(small_drop)).rows
    return rows.filter(rows["weekly_sales"].is_valid()).drop_columns(["date"])


def changed(frame: pa.Table, name: str, row: int, value: float | None) -> pa.Table:
    values = frame[name].to_pylist()
    values[row] = value
    return frame.set_column(frame.column_names.index(name), name, pa.array(values, frame.schema.field(name).type))


def test_a_good_frame_has_no_leak(frame: pa.Table) -> None:
    assert leaks(frame) == []


@pytest.mark.parametrize("name", ["sales_lag_1", "sales_lag_4", "sales_lag_52"])
def test_a_lag_that_is_the_rows_own_sales_is_found_and_named(frame: pa.Table, name: str) -> None:
    row = pc.index(frame[name].is_valid(), pa.scalar(True)).as_py()
    own = frame["weekly_sales"][row].as_py()

    (finding,) = leaks(changed(frame, name, row, own))

    assert finding.place.startswith(f"{name}: 1 rows, first store {frame['store'][row]}, dept {frame['dept'][row]}, ")
    assert finding.problem.startswith(f"is {own:,.2f}, sales were ")


def test_a_lag_where_no_such_week_exists_is_found(frame: pa.Table) -> None:
    row = pc.index(frame["sales_lag_1"].is_null(), pa.scalar(True)).as_py()

    assert len(leaks(changed(frame, "sales_lag_1", row, 1.0))) == 1


def test_a_week_without_rows_and_a_week_with_few_are_named(frame: pa.Table) -> None:
    weeks = sorted(set(frame[TIMESTAMP].to_pylist()))
    gone, thin = weeks[40], weeks[80]
    few = np.zeros(frame.num_rows, np.bool_)
    few[np.flatnonzero(pc.equal(frame[TIMESTAMP], thin).to_numpy())[3:]] = True
    kept = pc.and_(pc.not_equal(frame[TIMESTAMP], gone), pa.array(~few))

    findings = incomplete_weeks(frame.filter(kept))

    assert [finding.place for finding in findings] == [f"{gone:%Y-%m-%d}", f"{thin:%Y-%m-%d}"]
    assert findings[1].problem.startswith("3 rows, usually ")
