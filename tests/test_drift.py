"""A shift is seen at any size of sample, and chance is not taken for one."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.features import TIMESTAMP
from forecast_assets.drift import same_season, stability, stability_index
from forecast_assets.horizon import coming_week_features
from forecast_assets.ingest.drop import Drop, read_drop
from forecast_assets.ingest.feature_tables import sales_features_table

SIZES = [(33, 300), (160, 1_500), (3_200, 30_000)]  # live series and rows of the season, at 1 %, 5 % and full size


@pytest.fixture(scope="module")
def drop(small_drop: Path) -> Drop:
    return read_drop(small_drop)


@pytest.fixture(scope="module")
def frame(drop: Drop) -> pa.Table:
    rows = sales_features_table(drop).rows
    return rows.filter(rows["weekly_sales"].is_valid()).drop_columns(["date"])


@pytest.mark.parametrize(("series", "rows"), SIZES)
def test_two_samples_of_one_distribution_are_hardly_ever_taken_for_a_shift(series: int, rows: int) -> None:
    chance = np.random.default_rng(1)
    measured = [
        stability_index(chance.lognormal(8, 2, rows), chance.lognormal(8, 2, series))
        for _ in range(200 if rows < 10_000 else 20)
    ]

    assert [index for index, bound in measured if index > bound] == []


@pytest.mark.parametrize(("series", "rows"), SIZES)
@pytest.mark.parametrize("shift", ["another currency", "half of it missing", "stuck at one value"])
def test_a_shift_is_seen_at_every_size(series: int, rows: int, shift: str) -> None:
    chance = np.random.default_rng(2)
    live = chance.lognormal(8, 2, series)
    shifted = {
        "another currency": live * 100,
        "half of it missing": np.where(np.arange(series) % 2, np.nan, live),
        "stuck at one value": np.full(series, live[0]),
    }[shift]
    expected = chance.lognormal(8, 2, rows)

    index, bound = stability_index(expected, shifted)

    assert index > bound


@pytest.mark.parametrize(("series", "rows"), SIZES[:2])
def test_without_the_sample_in_the_bound_chance_alone_would_raise_an_alarm(series: int, rows: int) -> None:
    chance = np.random.default_rng(3)
    index = [stability_index(chance.lognormal(8, 2, rows), chance.lognormal(8, 2, series))[0] for _ in range(300)]

    # Yurdakul's expectation, (B - 1)(1/N + 1/M) with ten bins; the half value in each bin makes it a little less.
    assert np.mean(index) == pytest.approx(9 * (1 / series + 1 / rows), rel=0.2)


def test_what_all_rows_of_a_store_share_is_a_sample_of_stores() -> None:
    weeks, stores, depts = 20, 10, 30
    temperature = np.repeat(np.random.default_rng(4).normal(50, 20, (weeks + 1, stores)), depts, axis=1)
    times = np.repeat(np.arange(weeks), stores * depts).astype("datetime64[W]").astype("datetime64[us]")
    season = pa.table({TIMESTAMP: times, "temperature": temperature[1:].ravel()})

    (stable,) = stability(pa.table({"temperature": temperature[0]}), season)
    (stuck,) = stability(pa.table({"temperature": np.full(stores * depts, 200.0)}), season)

    of_stores = stability_index(temperature[1:, ::depts].ravel(), temperature[0, ::depts])
    assert stable.bound == pytest.approx(of_stores[1])
    assert not stable.drifted
    assert stuck.drifted


def test_a_coming_week_is_compared_with_its_season_in_years_that_knew_the_year_before(frame: pa.Table) -> None:
    season = same_season(frame, 44)

    assert {"week_of_year", "is_holiday", "month"}.isdisjoint(season.column_names)
    assert season["sales_lag_52"].null_count < 0.1 * season.num_rows
    assert (
        season.num_rows
        == frame.filter(
            pc.and_(
                pc.is_in(frame["week_of_year"], pa.array(range(41, 48), pa.int32())), frame["sales_lag_53"].is_valid()
            )
        ).num_rows
        + season["sales_lag_53"].null_count
    )


def test_a_coming_week_like_its_season_is_none_of_drift_and_in_another_currency_is(drop: Drop, frame: pa.Table) -> None:
    live, season = coming_week_features(drop), same_season(frame, 44)
    columns = [name for name in season.column_names if name.startswith("sales_")]
    scaled = pa.table({name: pc.multiply(live[name], 100.0) for name in columns})

    assert [each.column for each in stability(live.select(columns), season) if each.drifted] == []
    assert {each.column for each in stability(scaled, season) if each.drifted} == set(columns)


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=50))
def test_the_stability_index_is_zero_for_the_same_values_in_any_order(values: list[float]) -> None:
    array = np.array(values)

    assert stability_index(array, array[::-1].copy())[0] == pytest.approx(0)
