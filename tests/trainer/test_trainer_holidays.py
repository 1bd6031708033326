import datetime

import pyarrow as pa
import pytest

from trainer.holidays import easter_signals, easter_sunday


@pytest.mark.parametrize(
    "sunday", ["1961-04-02", "2000-04-23", "2010-04-04", "2011-04-24", "2012-04-08", "2024-03-31", "2038-04-25"]
)
def test_easter_is_when_it_was_and_will_be(sunday: str) -> None:
    assert str(easter_sunday(int(sunday[:4]))) == sunday


def test_signals_mark_the_weeks_of_easter_and_of_last_years_easter() -> None:
    fridays = [
        datetime.datetime(2012, 1, 6, tzinfo=datetime.UTC) + datetime.timedelta(weeks=week) for week in range(52)
    ]
    table = pa.table({"week": pa.array(fridays, pa.timestamp("us", "UTC"))})
    marked = {
        name: [f"{friday:%m-%d}" for friday, on in zip(fridays, signal, strict=True) if on]
        for name, signal in easter_signals(table, "week").items()
    }
    assert marked == {
        "easter": ["04-06"],
        "after_easter": ["04-13"],
        "easter_year_ago": ["04-20"],
        "after_easter_year_ago": ["04-27"],
    }
    assert len(easter_signals(table.slice(0, 0), "week")["easter"]) == 0
