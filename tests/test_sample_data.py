"""The generated data has the schema, the shape and the difficulty of the data set it stands in for."""

import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

from feature_repo.database import PostgresSettings
from forecast_assets.sample_data import SampleSummary, write_sample_data

FILES = ("train.csv", "features.csv", "stores.csv")
SEEDS = (1, 2, 3)

# Forecasts as the data set's own figures were taken: one step ahead, every row scored, flagged weeks weighted 5.
# A missing lag 52 falls back to lag 1, a missing lag 1 to the last sales on record, and a series without any to 0.
# The year-on-year ratio is over the last four weeks, where both years have them, within 0.5..2; else it is 1.
WMAE = """
    WITH lags AS (
        SELECT t.*, week.sales AS lag_1, year.sales AS lag_52, coalesce(week.sales, record.sales, 0) AS naive
        FROM train t
        LEFT JOIN train week ON (week.store, week.dept, week.week) = (t.store, t.dept, t.week - 7)
        LEFT JOIN train year ON (year.store, year.dept, year.week) = (t.store, t.dept, t.week - 364)
        LEFT JOIN LATERAL (
            SELECT sales FROM train r WHERE (r.store, r.dept) = (t.store, t.dept) AND r.week < t.week
            ORDER BY r.week DESC LIMIT 1
        ) record ON TRUE
        WHERE t.week BETWEEN %(first)s AND %(last)s
    ), recent AS (
        SELECT t.store, t.dept, t.week,
               sum(greatest(now.sales, 0)) / nullif(sum(greatest(before.sales, 0)), 0) AS ratio
        FROM train t
        JOIN train now ON (now.store, now.dept) = (t.store, t.dept) AND now.week BETWEEN t.week - 28 AND t.week - 7
        JOIN train before ON (before.store, before.dept, before.week) = (now.store, now.dept, now.week - 364)
        WHERE t.week BETWEEN %(first)s AND %(last)s
        GROUP BY 1, 2, 3
    ), forecasts AS (
        SELECT sales, CASE WHEN holiday THEN 5 ELSE 1 END AS weight, naive,
               coalesce(lag_52, naive) AS seasonal,
               coalesce(lag_52 * coalesce(greatest(0.5, least(2, ratio)), 1), naive) AS year_on_year
        FROM lags LEFT JOIN recent USING (store, dept, week)
    )
    SELECT sum(weight * abs(sales - naive)) / sum(weight),
           sum(weight * abs(sales - seasonal)) / sum(weight),
           sum(weight * abs(sales - year_on_year)) / sum(weight)
    FROM forecasts
"""
TABLES = {
    "train": "store int, dept int, week date, sales double precision, holiday boolean, PRIMARY KEY (store, dept, week)",
    "features": "store int, week date, temperature float8, fuel_price float8, markdown1 float8, markdown2 float8, "
    "markdown3 float8, markdown4 float8, markdown5 float8, cpi float8, unemployment float8, holiday boolean",
    "stores": "store int, type text, size int",
}


@dataclass(frozen=True)
class Sample:
    """A folder of generated files, and a database schema that holds them."""

    folder: Path
    summary: SampleSummary
    url: str
    schema: str

    def rows(self, query: str, parameters: dict[str, date] | None = None) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, options=f"-csearch_path={self.schema}") as connection:
            return connection.execute(query, parameters).fetchall()

    def one(self, query: str) -> tuple[Any, ...]:
        (row,) = self.rows(query)
        return row

    def wmae(self, first: str, last: str) -> tuple[float, float, float]:
        ((naive, seasonal, year_on_year),) = self.rows(
            WMAE, {"first": date.fromisoformat(first), "last": date.fromisoformat(last)}
        )
        return naive, seasonal, year_on_year


def sample(folder: Path, seed: int, url: str) -> Sample:
    summary = write_sample_data(folder, seed=seed)
    schema = f"seed{seed}"
    with psycopg.connect(url, options=f"-csearch_path={schema}") as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        for table, columns in TABLES.items():
            connection.execute(f"CREATE TABLE {table} ({columns})")
            copy = f"COPY {table} FROM STDIN (FORMAT csv, HEADER, NULL 'NA')"
            with connection.cursor().copy(copy) as stream:
                stream.write((folder / f"{table}.csv").read_bytes())
            connection.execute(f"ANALYZE {table}")
    return Sample(folder, summary, url, schema)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, module_database: PostgresSettings) -> dict[int, Sample]:
    return {seed: sample(tmp_path_factory.mktemp(f"seed{seed}"), seed, module_database.url) for seed in SEEDS}


@pytest.fixture(scope="module")
def full(samples: dict[int, Sample]) -> Sample:
    return samples[1]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_sample_data(folder, size=0.01)
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").splitlines()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forecast_assets.sample_data", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_full_size_has_the_counts_of_the_data_set(full: Sample) -> None:
    assert full.summary == SampleSummary(
        train_rows=421_570,
        features_rows=8_190,
        stores_rows=45,
        series=3_331,
        stores=45,
        first_week=date(2010, 2, 5),
        last_week=date(2012, 10, 26),
        last_features_week=date(2013, 7, 26),
    )
    counts = full.one(
        "SELECT count(*), count(DISTINCT store), count(DISTINCT dept), count(DISTINCT (store, dept)),"
        " count(DISTINCT week), min(week), max(week) FROM train"
    )
    assert counts == (421_570, 45, 81, 3_331, 143, date(2010, 2, 5), date(2012, 10, 26))
    assert full.one("SELECT count(*), max(week) FROM features") == (8_190, date(2013, 7, 26))
    assert full.one("SELECT count(*), min(Store), max(Store), count(DISTINCT Type) FROM stores") == (45, 1, 45, 3)


def test_sales_have_the_size_and_the_spread_of_the_data_set(full: Sample) -> None:
    mean, median, largest = full.one(
        "SELECT avg(sales), percentile_cont(0.5) WITHIN GROUP (ORDER BY sales), max(sales) FROM train"
    )
    assert (mean, median, largest) == pytest.approx((15_981, 7_612, 693_099), rel=0.35)


@pytest.mark.parametrize("seed", SEEDS)
def test_last_year_is_essential_over_thanksgiving_and_christmas(samples: dict[int, Sample], seed: int) -> None:
    naive, seasonal, year_on_year = samples[seed].wmae("2011-11-04", "2012-01-27")
    assert naive > 2 * seasonal
    assert (naive, seasonal, year_on_year) == pytest.approx((5_922, 2_237, 2_202), rel=0.25)


@pytest.mark.parametrize("seed", SEEDS)
def test_in_spring_last_year_helps_only_with_the_recent_trend(samples: dict[int, Sample], seed: int) -> None:
    naive, seasonal, year_on_year = samples[seed].wmae("2012-03-30", "2012-07-27")
    assert year_on_year < naive < seasonal
    assert (naive, seasonal, year_on_year) == pytest.approx((1_735, 1_909, 1_704), rel=0.25)


def test_keys_are_unique_sorted_and_on_fridays(full: Sample) -> None:
    for table, key in (("train", "store, dept, week"), ("features", "store, week")):
        keys = full.rows(f"SELECT {key} FROM {table}")
        assert keys == sorted(set(keys))
    assert full.one("SELECT bool_and(extract(isodow FROM week) = 5) FROM train") == (True,)
    assert full.one("SELECT bool_and(extract(isodow FROM week) = 5) FROM features") == (True,)


def test_every_sale_has_its_features_and_its_store_and_the_same_holiday_flag(full: Sample) -> None:
    matches = full.one(
        "SELECT count(*), bool_and(t.holiday = f.holiday) FROM train t JOIN stores USING (store)"
        " JOIN features f USING (store, week)"
    )
    assert matches == (421_570, True)
    flagged = full.rows("SELECT DISTINCT week FROM features WHERE holiday ORDER BY 1")
    assert [str(week) for (week,) in flagged] == [
        *("2010-02-12", "2010-09-10", "2010-11-26", "2010-12-31"),
        *("2011-02-11", "2011-09-09", "2011-11-25", "2011-12-30"),
        *("2012-02-10", "2012-09-07", "2012-11-23", "2012-12-28", "2013-02-08"),
    ]


def test_absent_weeks_are_missing_rows_and_some_series_are_tiny(full: Sample) -> None:
    complete, single, gaps = full.one(
        "SELECT count(*) FILTER (WHERE n = 143), count(*) FILTER (WHERE n = 1), sum(span - n)"
        " FROM (SELECT count(*) AS n, (max(week) - min(week)) / 7 + 1 AS span FROM train GROUP BY store, dept) s"
    )
    assert complete == 2_660
    assert single == 37
    assert gaps == pytest.approx(27_667, rel=0.1)


def test_some_weeks_are_negative_and_a_few_are_zero(full: Sample) -> None:
    negative, zero, least = full.one(
        "SELECT avg((sales < 0)::INT)::float8, sum((sales = 0)::INT), min(sales) FROM train"
    )
    assert negative == pytest.approx(0.003, rel=0.3)
    assert zero == pytest.approx(73, rel=0.5)
    assert least == pytest.approx(-4_989, rel=0.7)


def test_what_is_unknown_is_unknown_where_the_data_set_has_it_so(full: Sample) -> None:
    unknown = full.one(
        "SELECT count(*) FILTER (WHERE cpi IS NULL), count(*) FILTER (WHERE unemployment IS NULL),"
        " min(week) FILTER (WHERE cpi IS NULL), min(week) FILTER (WHERE markdown5 IS NOT NULL),"
        " count(*) FILTER (WHERE markdown5 IS NULL) FROM features"
    )
    assert unknown == (585, 585, date(2013, 5, 3), date(2011, 11, 11), 4_140)
    assert full.one("SELECT bool_or(markdown2 < 0), bool_and(temperature IS NOT NULL) FROM features") == (True, True)


def test_the_files_are_written_as_the_originals_are(full: Sample) -> None:
    number = r"-?(0|[1-9]\d*)(\.\d*[1-9])?"
    row = {
        "train.csv": rf"\d+,\d+,\d{{4}}-\d\d-\d\d,{number},(TRUE|FALSE)",
        "features.csv": rf"\d+,\d{{4}}-\d\d-\d\d,{number},{number}(,({number}|NA)){{7}},(TRUE|FALSE)",
        "stores.csv": r"\d+,[ABC],\d+",
    }
    header = {
        "train.csv": "Store,Dept,Date,Weekly_Sales,IsHoliday",
        "features.csv": "Store,Date,Temperature,Fuel_Price,MarkDown1,MarkDown2,MarkDown3,MarkDown4,MarkDown5,"
        "CPI,Unemployment,IsHoliday",
        "stores.csv": "Store,Type,Size",
    }
    for name in FILES:
        content = (full.folder / name).read_bytes()
        assert content.endswith(b"\n")
        assert b"\r" not in content
        first, *rest = lines(full.folder / name)
        assert first == header[name]
        shape = re.compile(row[name])
        assert [line for line in rest if not shape.fullmatch(line)] == []
    assert sorted(path.name for path in full.folder.iterdir()) == sorted(FILES)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(small: Path, tmp_path: Path) -> None:
    write_sample_data(tmp_path / "again", size=0.01)
    write_sample_data(tmp_path / "other", size=0.01, seed=2)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (small / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (small / name).read_bytes()


def test_a_small_size_keeps_the_structure(small: Path) -> None:
    rows = [line.split(",") for line in lines(small / "train.csv")[1:]]
    lengths: dict[tuple[str, str], int] = {}
    for store, dept, *_ in rows:
        lengths[store, dept] = lengths.get((store, dept), 0) + 1
    assert len(rows) == 4_216
    assert len(lengths) == 33
    assert len({week for _, _, week, *_ in rows}) == max(lengths.values()) == 143
    assert min(lengths.values()) < 20
    assert any(sales.startswith("-") for _, _, _, sales, _ in rows)
    assert [line.split(",")[1] for line in sorted(lines(small / "stores.csv")[1:], key=lambda line: line[2])] == [
        *("A", "B", "C")
    ]


def test_a_larger_size_has_more_stores_and_the_same_departments(tmp_path: Path) -> None:
    summary = write_sample_data(tmp_path, size=2)
    assert (summary.stores, summary.series, summary.train_rows) == (90, 6_662, 843_140)
    assert len({line.split(",")[1] for line in lines(tmp_path / "train.csv")[1:]}) == 81


@pytest.mark.parametrize("through", [date(2010, 2, 5), date(2012, 7, 27), date(2012, 8, 2)])
def test_an_earlier_end_leaves_out_later_weeks_and_changes_nothing_else(
    small: Path, tmp_path: Path, through: date
) -> None:
    summary = write_sample_data(tmp_path, size=0.01, through=through)
    week = {"train.csv": 2, "features.csv": 1}
    last = {"train.csv": summary.last_week, "features.csv": summary.last_features_week}
    assert 0 <= (through - summary.last_week).days < 7
    assert (summary.last_features_week - summary.last_week).days == 39 * 7
    for name, column in week.items():
        header, *rows = lines(small / name)
        kept = [row for row in rows if row.split(",")[column] <= last[name].isoformat()]
        assert lines(tmp_path / name) == [header, *kept]
    assert (tmp_path / "stores.csv").read_bytes() == (small / "stores.csv").read_bytes()


def test_the_command_prints_one_line_for_each_file(tmp_path: Path) -> None:
    result = run("--out", str(tmp_path / "drop"), "--size", "0.01", "--through", "2012-07-27")
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["features.csv", "stores.csv", "train.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--through", "soon"), "invalid iso_date value: 'soon'"),
        (("--through", "2012-11-02"), "through must lie in 2010-02-05..2012-10-26, not 2012-11-02"),
        (("--through", "2010-02-04"), "through must lie in 2010-02-05..2012-10-26, not 2010-02-04"),
        (("--size", "0"), "size must be a number above 0, not 0.0"),
        (("--size", "nan"), "size must be a number above 0, not nan"),
        (("--seed", "-1"), "seed must be 0 or more, not -1"),
    ],
)
def test_a_wrong_argument_is_named_and_nothing_is_written(
    tmp_path: Path, arguments: tuple[str, str], message: str
) -> None:
    result = run("--out", str(tmp_path / "drop"), *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].endswith(message)
    assert not (tmp_path / "drop").exists()


def test_a_failure_on_the_way_leaves_the_earlier_file_and_no_remains(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample_data(tmp_path, size=0.01)

    def fail(*_: object) -> None:
        raise RuntimeError("no sales")

    monkeypatch.setattr("forecast_assets.sample_data.write.store_sales", fail)
    with pytest.raises(RuntimeError, match="no sales"):
        write_sample_data(tmp_path, size=0.01)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    assert (tmp_path / "train.csv").read_bytes() == (small / "train.csv").read_bytes()
