"""The three CSV schemas of a drop, and a parser that names line, column and value of the first thing wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from forecast_assets.ingest.files import DropRefusedError, RawFile

MAX_LINE_BYTES = 65_536
MISSING = pa.array(["NA", ""])
_BOOLEANS = {"TRUE": True, "FALSE": False, "True": True, "False": False, "true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Column:
    """One CSV column.

    Attributes:
        nullable: it may hold ``NA`` or nothing.
        lowest, highest: what is beyond them is impossible; returns are not, for example.
    """

    header: str
    type: pa.DataType
    nullable: bool = False
    lowest: float | None = None
    highest: float | None = None


@dataclass(frozen=True, slots=True)
class CsvSchema:
    """The columns of a file, and those that together may appear once only."""

    columns: tuple[Column, ...]
    key: tuple[str, ...]


_MOST_DOLLARS = 1e12  # a sum of many of them is still exact to the cent
_STORE = Column("Store", pa.int64(), lowest=1, highest=2**31 - 1)
_DEPT = Column("Dept", pa.int64(), lowest=1, highest=2**31 - 1)
_DATE = Column("Date", pa.date32())
_SALES = Column("Weekly_Sales", pa.float64(), lowest=-_MOST_DOLLARS, highest=_MOST_DOLLARS)
_HOLIDAY = Column("IsHoliday", pa.bool_())

TRAIN = CsvSchema((_STORE, _DEPT, _DATE, _SALES, _HOLIDAY), key=("Store", "Dept", "Date"))
FEATURES = CsvSchema(
    (
        _STORE,
        _DATE,
        Column("Temperature", pa.float64(), nullable=True, lowest=-130, highest=140),
        Column("Fuel_Price", pa.float64(), nullable=True, lowest=0, highest=_MOST_DOLLARS),
        *(
            Column(f"MarkDown{n}", pa.float64(), nullable=True, lowest=-_MOST_DOLLARS, highest=_MOST_DOLLARS)
            for n in range(1, 6)
        ),
        Column("CPI", pa.float64(), nullable=True, lowest=0, highest=1e9),
        Column("Unemployment", pa.float64(), nullable=True, lowest=0, highest=100),
        _HOLIDAY,
    ),
    key=("Store", "Date"),
)
STORES = CsvSchema(
    (_STORE, Column("Type", pa.string()), Column("Size", pa.int64(), lowest=1, highest=10**12)), key=("Store",)
)


def line_of(row: int) -> int:
    """The line (from 1) of a row (from 0): one header line, and every row is one line."""
    return row + 2


def parse(file: RawFile, schema: CsvSchema) -> pa.Table:
    """The file as a typed table in file order, so that row ``i`` is line ``i + 2``; columns carry the CSV's names.

    Columns beyond the schema are left out.

    Raises:
        DropRefusedError: a column is missing, a line has too few or too many fields, a value is not of its column's
            type or is impossible, or two lines with the same key disagree.
    """
    lines = _check_lines(file)
    header = _check_header(file, schema)
    text = _read_as_text(file, header, lines)
    table = pa.table({column.header: _convert(file, text[column.header], column) for column in schema.columns})
    return _without_repeats(file, table, schema)


def _check_lines(file: RawFile) -> int:
    ends = np.flatnonzero(np.frombuffer(file.text, dtype=np.uint8) == ord("\n"))
    lengths = np.diff(ends, prepend=-1) - 1
    if (blank := np.flatnonzero(lengths == 0)).size:
        raise DropRefusedError(f"{file.name} line {blank[0] + 1:,} is blank: remove it, or send the file again")
    if (long := np.flatnonzero(lengths > MAX_LINE_BYTES)).size:
        raise DropRefusedError(
            f"{file.name} line {long[0] + 1:,} is {lengths[long[0]]:,} bytes long (at most {MAX_LINE_BYTES:,}): "
            "is this a comma-separated file?"
        )
    if ends.size == 1:
        raise DropRefusedError(f"{file.name} has a header but no rows: send the whole file again")
    return int(ends.size)


def _check_header(file: RawFile, schema: CsvSchema) -> list[str]:
    header = file.text[: file.text.index(b"\n")].decode()
    found = [name.strip().strip('"') for name in header.split(",")]
    missing = [column.header for column in schema.columns if column.header not in found]
    if missing:
        raise DropRefusedError(
            f"{file.name} line 1: column {' and '.join(map(repr, missing))} is missing{_hint(found, missing, schema)}; "
            f"the header is {_shown(header)}, expected {','.join(column.header for column in schema.columns)}"
        )
    if repeated := [name for name in found if found.count(name) > 1]:
        raise DropRefusedError(f"{file.name} line 1: column {repeated[0]!r} appears more than once")
    return found


def _hint(found: list[str], missing: list[str], schema: CsvSchema) -> str:
    """What may have been meant by a header without the columns ``missing``; empty if there is no telling."""
    if len(found) == 1 < len(schema.columns):
        return " (its fields seem to be separated by ';' or tabs, not commas)"
    if {name.lower() for name in missing} <= {name.lower() for name in found}:
        return " (capitals count)"
    if {column.header for column in schema.columns if column.nullable}.issuperset(missing):
        return " (a column of which nothing is known holds NA in every line)"
    return ""


def _read_as_text(file: RawFile, header: list[str], lines: int) -> pa.Table:
    bad: list[pacsv.InvalidRow] = []

    def note(row: pacsv.InvalidRow) -> str:
        bad.append(row)
        return "skip"

    text = pacsv.read_csv(
        pa.BufferReader(file.text),
        # One thread, so that invalid rows come with their number.
        read_options=pacsv.ReadOptions(
            use_threads=False, block_size=4 * MAX_LINE_BYTES, column_names=header, skip_rows=1
        ),
        parse_options=pacsv.ParseOptions(invalid_row_handler=note),
        convert_options=pacsv.ConvertOptions(
            column_types=dict.fromkeys(header, pa.string()),
            strings_can_be_null=False,
        ),
    )
    if bad:
        row = bad[0]
        cut = row.number == lines and not file.ends_with_newline and row.actual_columns < row.expected_columns
        raise DropRefusedError(
            f"{file.name} line {row.number:,}: {row.actual_columns} fields instead of {row.expected_columns}: "
            f"{_shown(row.text)}" + (" (the file ends there: it seems to be cut off, send it again)" if cut else "")
        )
    return text


def _convert(file: RawFile, values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    missing = pc.is_in(values, value_set=MISSING)
    if column.nullable:
        values = pc.if_else(missing, pa.scalar(None, pa.string()), values)
    elif (row := _first(missing)) is not None:
        raise _bad_value(file, row, column, values, "is missing")
    convert, wanted = _CONVERTERS[column.type]
    try:
        converted = convert(values)
    except pa.ArrowInvalid:
        raise _bad_value(file, _first_failure(values, convert), column, values, f"is not {wanted}") from None
    if pa.types.is_floating(column.type):
        infinite = pc.invert(pc.fill_null(pc.is_finite(converted), True))
        if (row := _first(infinite)) is not None:
            raise _bad_value(file, row, column, values, f"is not {wanted}")
    _check_range(file, converted, column, values)
    return converted


def _check_range(file: RawFile, converted: pa.ChunkedArray, column: Column, values: pa.ChunkedArray) -> None:
    for bound, beyond, than in ((column.lowest, pc.less, "less"), (column.highest, pc.greater, "more")):
        if bound is not None and (row := _first(beyond(converted, bound))) is not None:
            raise _bad_value(file, row, column, values, f"cannot be: it is {than} than {bound:,.0f}")


def _to_boolean(values: pa.ChunkedArray) -> pa.ChunkedArray:
    position = pc.index_in(values, value_set=pa.array(list(_BOOLEANS)))
    if position.null_count > values.null_count:
        raise pa.ArrowInvalid("not a boolean")
    return pa.chunked_array([pc.take(pa.array(list(_BOOLEANS.values())), position.combine_chunks())])


def _to_integer(values: pa.ChunkedArray) -> pa.ChunkedArray:
    # Arrow's own cast also takes hexadecimal.
    if not pc.all(pc.match_substring_regex(values, r"^-?[0-9]+$"), min_count=0).as_py():
        raise pa.ArrowInvalid("not an integer")
    return cast(pa.ChunkedArray, pc.cast(values, pa.int64()))


def _to_text(values: pa.ChunkedArray) -> pa.ChunkedArray:
    # "A " would count as another type than "A", and what does not show cannot be corrected.
    if not pc.all(pc.match_substring_regex(values, r"^[^\pC\pZ]([^\pC]{0,98}[^\pC\pZ])?$"), min_count=0).as_py():
        raise pa.ArrowInvalid("not a text")
    return values


def _caster(kind: pa.DataType) -> Callable[[pa.ChunkedArray], pa.ChunkedArray]:
    return lambda values: cast(pa.ChunkedArray, pc.cast(values, kind))


_CONVERTERS: dict[pa.DataType, tuple[Callable[[pa.ChunkedArray], pa.ChunkedArray], str]] = {
    pa.int64(): (_to_integer, "a whole number"),
    pa.float64(): (_caster(pa.float64()), "a number such as 1234.5"),
    pa.date32(): (_caster(pa.date32()), "a date written YYYY-MM-DD"),
    pa.bool_(): (_to_boolean, "TRUE or FALSE"),
    pa.string(): (_to_text, "a text of at most 100 characters, all of them visible"),
}


def _first(mask: pa.ChunkedArray) -> int | None:
    row = pc.index(mask, pa.scalar(True)).as_py()
    return None if row < 0 else int(row)


def _first_failure(values: pa.ChunkedArray, convert: Callable[[pa.ChunkedArray], pa.ChunkedArray]) -> int:
    low, high = 0, len(values)  # the first failure is in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            convert(values.slice(low, middle - low))
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def _bad_value(file: RawFile, row: int, column: Column, values: pa.ChunkedArray, problem: str) -> DropRefusedError:
    line = line_of(row)
    cut = row == len(values) - 1 and not file.ends_with_newline
    hint = " (the file ends there: it seems to be cut off, send it again)" if cut else ""
    return DropRefusedError(
        f"{file.name} line {line:,}: {column.header} {_shown(values[row].as_py() or 'NA')} {problem}{hint}"
    )


def _without_repeats(file: RawFile, table: pa.Table, schema: CsvSchema) -> pa.Table:
    """Refuse rows with the same key that disagree. Exact repeats are kept here; loading takes each key once."""
    keys = table.select(schema.key)
    if keys.group_by(schema.key).aggregate([]).num_rows == table.num_rows:
        return table
    first_seen: dict[tuple[object, ...], int] = {}
    columns = [table[name].to_pylist() for name in schema.key]
    for row, key in enumerate(zip(*columns, strict=True)):
        earlier = first_seen.setdefault(key, row)
        if earlier != row and table.slice(earlier, 1) != table.slice(row, 1):
            name = ", ".join(f"{part} {value}" for part, value in zip(schema.key, key, strict=True))
            differing = next(c for c in table.column_names if table[c][earlier].as_py() != table[c][row].as_py())
            raise DropRefusedError(
                f"{file.name} line {line_of(row):,}: {name} was given before, in line {line_of(earlier):,}, with "
                f"{differing} {table[differing][earlier].as_py()!s} instead of {table[differing][row].as_py()!s}"
            )
    return table


def _shown(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "...")
