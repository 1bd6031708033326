"""Mutations of what a well-written drop says: duplicates, ranges, units, series that come and go, dead feeds."""

import random
from collections.abc import Callable

from .draft import Draft, Row, later
from .text_mutations import DATED, Mutation

EXTERNAL = ("Temperature", "Fuel_Price", "CPI", "Unemployment")
MARKDOWNS = tuple(f"MarkDown{number}" for number in range(1, 6))


def _scaled(file: str, column: str, factor: float, offset: float = 0.0) -> Mutation:
    def scale(value: str) -> str:
        try:
            return f"{float(value) * factor + offset:.10g}"
        except ValueError:
            return value

    return lambda draft, _: draft.each(file, column, scale)


def _one_of(*places: tuple[str, str, str]) -> Mutation:
    """One value, in a row drawn, becomes what is given: file, column, value."""

    def mutate(draft: Draft, rng: random.Random) -> None:
        file, column, value = rng.choice(places)
        draft.set(file, draft.any_row(rng, file), column, value)

    return mutate


def _throughout(*places: tuple[str, str, str]) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        file, column, value = rng.choice(places)
        draft.each(file, column, lambda _: value)

    return mutate


def _column(draft: Draft, file: str, row: Row, name: str) -> str:
    return row[draft.position(file, name)]


def _weeks(draft: Draft) -> list[str]:
    return draft.values("train.csv", "Date")


def _same_row_again(draft: Draft, rng: random.Random) -> None:
    file = rng.choice(tuple(draft.rows))
    draft.rows[file].append(list(draft.rows[file][draft.any_row(rng, file)]))


def _key_again(draft: Draft, rng: random.Random) -> None:
    file, column = rng.choice([("train.csv", "Weekly_Sales"), ("features.csv", "CPI"), ("stores.csv", "Size")])
    _same_row = list(draft.rows[file][draft.any_row(rng, file)])
    _same_row[draft.position(file, column)] = "12345"
    draft.rows[file].append(_same_row)


def _file_twice(draft: Draft, rng: random.Random) -> None:
    file = rng.choice(tuple(draft.rows))
    draft.rows[file] += [list(row) for row in draft.rows[file][1:]]


def _last_week_again(draft: Draft, _: random.Random) -> None:
    before, last = _weeks(draft)[-2:]
    sales = {
        (row[0], row[1]): _column(draft, "train.csv", row, "Weekly_Sales")
        for row in draft.rows["train.csv"][1:]
        if _column(draft, "train.csv", row, "Date") == before
    }
    for row in draft.rows["train.csv"][1:]:
        if _column(draft, "train.csv", row, "Date") == last and (row[0], row[1]) in sales:
            row[draft.position("train.csv", "Weekly_Sales")] = sales[row[0], row[1]]


def _shifted(days: Callable[[random.Random], int], files: tuple[str, ...]) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        by = days(rng)
        for file in files:
            draft.each(file, "Date", lambda day: later(day, by))

    return mutate


def _one_store_shifted(draft: Draft, rng: random.Random) -> None:
    store = rng.choice(draft.values("train.csv", "Store"))
    for row in draft.rows["train.csv"][1:]:
        if row[draft.position("train.csv", "Store")] == store:
            place = draft.position("train.csv", "Date")
            row[place] = later(row[place], 7)


def _some_rows_another_day(draft: Draft, rng: random.Random) -> None:
    file = rng.choice(DATED)
    by = rng.choice([-1, 1, 3])
    for _ in range(rng.choice([1, 5])):
        row = draft.rows[file][draft.any_row(rng, file)]
        row[draft.position(file, "Date")] = later(row[draft.position(file, "Date")], by)


def _new_store(draft: Draft, rng: random.Random) -> None:
    new = rng.choice(["9", "77", "2147483648", "4611686018427387904"])
    for file in ("train.csv", "features.csv", "stores.csv"):
        if rng.random() < 0.85:  # else it is announced in some files only
            first = draft.values(file, "Store")[0]
            copies = [list(row) for row in draft.rows[file][1:] if row[draft.position(file, "Store")] == first]
            for row in copies:
                row[draft.position(file, "Store")] = new
            draft.rows[file] += copies


def _vanished(column: str, *files: str) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        gone = rng.choice(draft.values("train.csv", column))
        for file in files:
            place = draft.position(file, column)
            draft.keep(file, lambda row, place=place: row[place] != gone)  # type: ignore[misc]

    return mutate


def _new_department(draft: Draft, rng: random.Random) -> None:
    new = rng.choice(["98", "100", "4611686018427387904"])
    weeks = _weeks(draft)[-rng.choice([1, 3, 40]) :]
    source = draft.values("train.csv", "Dept")[0]
    copies = [
        list(row)
        for row in draft.rows["train.csv"][1:]
        if row[draft.position("train.csv", "Dept")] == source and row[draft.position("train.csv", "Date")] in weeks
    ]
    for row in copies:
        row[draft.position("train.csv", "Dept")] = new
    draft.rows["train.csv"] += copies


def _only(column: str) -> Mutation:
    """The sales of one week, store or department alone."""

    def mutate(draft: Draft, rng: random.Random) -> None:
        kept = rng.choice(draft.values("train.csv", column))
        draft.keep("train.csv", lambda row: row[draft.position("train.csv", column)] == kept)

    return mutate


def _weeks_missing(draft: Draft, rng: random.Random) -> None:
    weeks = _weeks(draft)
    start = rng.randrange(len(weeks))
    gone = set(weeks[start : start + rng.choice([1, 4, 30])])
    draft.keep("train.csv", lambda row: row[draft.position("train.csv", "Date")] not in gone)


def _history_cut(draft: Draft, rng: random.Random) -> None:
    first = _weeks(draft)[rng.choice([1, 20, 60])]
    draft.keep("train.csv", lambda row: row[draft.position("train.csv", "Date")] >= first)


def _gaps_filled_with_zeros(draft: Draft, rng: random.Random) -> None:
    place = draft.position("train.csv", "Weekly_Sales")
    for row in draft.rows["train.csv"][1:]:
        if rng.random() < 0.1:
            row[place] = "0"


def _features_until(draft: Draft, rng: random.Random) -> None:
    last = _weeks(draft)[-rng.choice([1, 2, 30])]
    draft.keep("features.csv", lambda row: row[draft.position("features.csv", "Date")] <= last)


def _features_without_a_store(draft: Draft, rng: random.Random) -> None:
    gone = rng.choice(draft.values("features.csv", "Store"))
    draft.keep("features.csv", lambda row: row[draft.position("features.csv", "Store")] != gone)


def _from_week(columns: tuple[str, ...], value: Callable[[str, str], str]) -> Mutation:
    """From a week on, columns of features.csv are ``value`` (of what they are, of what they were in that week)."""

    def mutate(draft: Draft, rng: random.Random) -> None:
        first = rng.choice(draft.values("features.csv", "Date")[:-4])
        places = [draft.position("features.csv", name) for name in columns]
        then: dict[tuple[str, int], str] = {}
        for row in draft.rows["features.csv"][1:]:
            if row[draft.position("features.csv", "Date")] >= first:
                for place in places:
                    row[place] = value(row[place], then.setdefault((row[0], place), row[place]))

    return mutate


def _no_promotions(draft: Draft, _: random.Random) -> None:
    for name in MARKDOWNS:
        draft.each("features.csv", name, lambda _: "NA")


def _promotions_begin(draft: Draft, rng: random.Random) -> None:
    first = rng.choice(draft.values("features.csv", "Date")[4:])
    for row in draft.rows["features.csv"][1:]:
        started = row[draft.position("features.csv", "Date")] >= first
        for name in MARKDOWNS:
            row[draft.position("features.csv", name)] = f"{rng.uniform(0, 90_000):.2f}" if started else "NA"


def _flags(value: Callable[[str], str], *files: str) -> Mutation:
    def mutate(draft: Draft, _: random.Random) -> None:
        for file in files:
            draft.each(file, "IsHoliday", value)

    return mutate


def _swapped(flag: str) -> str:
    return {"TRUE": "FALSE", "FALSE": "TRUE"}.get(flag, flag)


def _some_weeks(rng: random.Random) -> int:
    return 7 * rng.choice([-1, 1, 2, 13])


DATA_MUTATIONS: dict[str, Mutation] = {
    "duplicate: a row again": _same_row_again,
    "duplicate: a key with another value": _key_again,
    "duplicate: a whole file twice": _file_twice,
    "duplicate: last week's sales sent as this week's": _last_week_again,
    "range: size 0 or negative": _one_of(("stores.csv", "Size", "0"), ("stores.csv", "Size", "-5")),
    "range: store or department 0 or negative": _one_of(
        ("train.csv", "Dept", "0"), ("train.csv", "Dept", "-3"), ("stores.csv", "Store", "-1")
    ),
    "range: impossible weather, price or rate": _one_of(
        ("features.csv", "Temperature", "500"),
        ("features.csv", "Temperature", "-200"),
        ("features.csv", "Fuel_Price", "-1"),
        ("features.csv", "Unemployment", "150"),
        ("features.csv", "Unemployment", "-2"),
        ("features.csv", "CPI", "-7"),
    ),
    "range: returns (negative sales or markdowns)": _one_of(
        ("train.csv", "Weekly_Sales", "-500.5"), ("features.csv", "MarkDown2", "-20")
    ),
    "range: dollars beyond all measure": _one_of(
        ("train.csv", "Weekly_Sales", "1e13"),
        ("train.csv", "Weekly_Sales", "1e40"),
        ("features.csv", "MarkDown1", "1e25"),
    ),
    "unit: Celsius": _scaled("features.csv", "Temperature", 5 / 9, -160 / 9),
    "unit: cents": _scaled("train.csv", "Weekly_Sales", 100),
    "unit: thousands": _scaled("train.csv", "Weekly_Sales", 1e-3),
    "unit: unemployment as a share": _scaled("features.csv", "Unemployment", 0.01),
    "shift: every week of sales, by weeks": _shifted(_some_weeks, ("train.csv",)),
    "shift: every week of features, by weeks": _shifted(_some_weeks, ("features.csv",)),
    "shift: every week of both, by weeks": _shifted(_some_weeks, DATED),
    "shift: every week of both, by days": _shifted(lambda rng: rng.choice([-3, 1, 2]), DATED),
    "shift: every week of one, by days": _shifted(lambda rng: rng.choice([-3, 1, 2]), ("features.csv",)),
    "shift: every week of both, by centuries": _shifted(lambda rng: 7 * 52 * rng.choice([-400, 300, 1000]), DATED),
    "shift: one store, by a week": _one_store_shifted,
    "shift: some rows, by days": _some_rows_another_day,
    "series: new store": _new_store,
    "series: store gone": _vanished("Store", "train.csv", "features.csv", "stores.csv"),
    "series: store gone from stores.csv alone": _vanished("Store", "stores.csv"),
    "series: new department": _new_department,
    "series: department gone": _vanished("Dept", "train.csv"),
    "series: one week alone": _only("Date"),
    "series: one department alone": _only("Dept"),
    "history: weeks missing": _weeks_missing,
    "history: first weeks cut off": _history_cut,
    "history: gaps filled with zeros": _gaps_filled_with_zeros,
    "history: constant sales": _throughout(("train.csv", "Weekly_Sales", "0"), ("train.csv", "Weekly_Sales", "99.5")),
    "feed: features end early": _features_until,
    "feed: a store without features": _features_without_a_store,
    "feed: external columns without a value": _from_week(EXTERNAL, lambda _, __: "NA"),
    "feed: external columns frozen": _from_week(EXTERNAL, lambda _, then: then),
    "feed: promotions absent": _no_promotions,
    "feed: promotions switched on midway": _promotions_begin,
    "feed: promotions switched off midway": _from_week(MARKDOWNS, lambda _, __: "NA"),
    "holidays: none at all": _flags(lambda _: "FALSE", *DATED),
    "holidays: swapped in both files": _flags(_swapped, *DATED),
    "holidays: none in one file": _flags(lambda _: "FALSE", "train.csv"),
}
