"""Whatever is wrong with a drop, it is refused with a message that says where, what, and what to do."""

import gzip
import io
import re
import shutil
import zipfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table
from forecast_assets.ingest.files import DropRefusedError

Edit = Callable[[bytes], bytes]
FILES = ("train.csv", "features.csv", "stores.csv")
CUT_OFF = "it seems to be cut off, send it again"


def line(number: int, edit: Edit) -> Edit:
    """Edits one line, counted from 1."""

    def apply(content: bytes) -> bytes:
        lines = content.split(b"\n")
        lines[number - 1] = edit(lines[number - 1])
        return b"\n".join(lines)

    return apply


def value(number: int, column: str, new: str) -> Edit:
    """Replaces one value of a line."""

    def apply(content: bytes) -> bytes:
        position = content.split(b"\n")[0].decode().split(",").index(column)
        fields = content.split(b"\n")[number - 1].split(b",")
        fields[position] = new.encode()
        return line(number, lambda _: b",".join(fields))(content)

    return apply


def appended(number: int, **changes: str) -> Edit:
    """Adds a copy of a line at the end, with some values changed."""

    def apply(content: bytes) -> bytes:
        copy = content.split(b"\n")[number - 1]
        last = content.count(b"\n") + 1
        content += copy + b"\n"
        for column, new in changes.items():
            content = value(last, column, new)(content)
        return content

    return apply


def every_date_a_day_later(content: bytes) -> bytes:
    return re.sub(
        rb"\d{4}-\d\d-\d\d",
        lambda match: (date.fromisoformat(match[0].decode()) + timedelta(days=1)).isoformat().encode(),
        content,
    )


def zipped(content: bytes, *names: str, encrypted: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    packed = bytearray(buffer.getvalue())
    if encrypted:
        for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            packed[packed.index(header) + flags] |= 1
    return bytes(packed)


SPOILT: list[tuple[str, str, Edit, list[str]]] = [
    ("empty file", "train.csv", lambda _: b"", ["train.csv is empty", "send the whole file again"]),
    ("only blank lines", "stores.csv", lambda _: b" \r\n\r\n", ["stores.csv is empty"]),
    ("header only", "train.csv", lambda c: c.split(b"\n")[0], ["train.csv has a header but no rows"]),
    ("no header", "stores.csv", lambda c: c.split(b"\n", 1)[1], ["stores.csv line 1: column 'Store' and 'Type'"]),
    (
        "column missing",
        "stores.csv",
        lambda c: b"\n".join(row.rsplit(b",", 1)[0] for row in c.split(b"\n")),
        ["stores.csv line 1: column 'Size' is missing", "the header is 'Store,Type'", "expected Store,Type,Size"],
    ),
    (
        "column renamed",
        "train.csv",
        lambda c: c.replace(b"Weekly_Sales", b"Sales"),
        ["train.csv line 1: column 'Weekly_Sales' is missing", "'Store,Dept,Date,Sales,IsHoliday'"],
    ),
    ("column twice", "stores.csv", lambda c: c.replace(b"Size", b"Size,Size"), ["column 'Size' appears more than"]),
    ("semicolons", "train.csv", lambda c: c.replace(b",", b";"), ["line 1: column 'Store' and", "separated by ';'"]),
    ("word for a number", "train.csv", value(2001, "Weekly_Sales", "abc"), ["line 2,001: Weekly_Sales 'abc' is not a"]),
    ("nan", "train.csv", value(2001, "Weekly_Sales", "nan"), ["line 2,001: Weekly_Sales 'nan' is not a number"]),
    ("inf", "train.csv", value(4217, "Weekly_Sales", "-inf"), ["line 4,217: Weekly_Sales '-inf' is not a number"]),
    ("overflow", "features.csv", value(300, "CPI", "1e400"), ["features.csv line 300: CPI '1e400' is not a number"]),
    ("hexadecimal", "train.csv", value(2, "Store", "0x1"), ["train.csv line 2: Store '0x1' is not a whole number"]),
    ("fraction", "stores.csv", value(3, "Size", "1.5"), ["stores.csv line 3: Size '1.5' is not a whole number"]),
    (
        "30 February",
        "train.csv",
        value(2001, "Date", "2010-02-30"),
        ["line 2,001: Date '2010-02-30' is not", "YYYY-MM"],
    ),
    ("other date format", "features.csv", value(9, "Date", "05/02/2010"), ["features.csv line 9: Date '05/02/2010'"]),
    ("bad boolean", "train.csv", value(2001, "IsHoliday", "yes"), ["line 2,001: IsHoliday 'yes' is not TRUE or FALSE"]),
    ("NA for sales", "train.csv", value(2001, "Weekly_Sales", "NA"), ["line 2,001: Weekly_Sales 'NA' is missing"]),
    (
        "nothing for a flag",
        "features.csv",
        value(9, "IsHoliday", ""),
        ["features.csv line 9: IsHoliday 'NA' is missing"],
    ),
    ("picture", "train.csv", lambda _: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0", ["train.csv is not text", "UTF-8"]),
    ("UTF-16", "train.csv", lambda c: c.decode().encode("utf-16"), ["train.csv is not text", "UTF-8"]),
    ("latin-1", "stores.csv", lambda c: c.replace(b",B,", b",\xe9,"), ["stores.csv line 4: byte 0xe9 is not UTF-8"]),
    ("archive of two", "train.csv", lambda c: zipped(c, "a.csv", "b.csv"), ["train.csv holds 2 files: expected"]),
    ("encrypted", "train.csv", lambda c: zipped(c, "a", encrypted=True), ["train.csv cannot be read", "encrypted"]),
    (
        "truncated gzip",
        "train.csv",
        lambda c: gzip.compress(c)[:-9],
        ["train.csv cannot be read", "send train.csv again"],
    ),
    ("corrupt gzip", "train.csv", lambda c: gzip.compress(c)[:-8] + bytes(8), ["train.csv cannot be read", "CRC"]),
    ("cut in a line", "train.csv", lambda c: c[:-9], ["line 4,217: 4 fields instead of 5", CUT_OFF]),
    ("cut in a flag", "train.csv", lambda c: c[:-3], ["line 4,217: IsHoliday 'FAL' is not TRUE or FALSE", CUT_OFF]),
    ("short line", "train.csv", line(2001, lambda _: b"1,2"), ["train.csv line 2,001: 2 fields instead of 5: '1,2'"]),
    ("blank line", "train.csv", line(2001, lambda _: b""), ["train.csv line 2,001 is blank: remove it"]),
    ("too many fields", "train.csv", line(2001, lambda row: row + b",1"), ["line 2,001: 6 fields instead of 5"]),
    ("stray quote", "train.csv", line(2001, lambda row: b'"' + row), ["train.csv line 2,001: 1 fields instead of 5"]),
    (
        "endless line",
        "train.csv",
        line(2001, lambda row: row + b"0" * 99_999),
        ["line 2,001 is 100,0", "at most 65,536"],
    ),
    (
        "key twice",
        "train.csv",
        appended(2001, Weekly_Sales="1.25"),
        ["train.csv line 4,218: Store ", "Dept", "Date", "given before, in line 2,001, with Weekly_Sales", "of 1.25"],
    ),
    (
        "store twice",
        "stores.csv",
        appended(3, Size="1"),
        ["stores.csv line 5: Store 2 was given before, in line 3, with"],
    ),
    (
        "off the grid",
        "train.csv",
        value(2001, "Date", "2011-06-04"),
        ["train.csv line 2,001: Date 2011-06-04 is a Saturday", "dated Fridays", "one row per week"],
    ),
    (
        "other weekday",
        "features.csv",
        every_date_a_day_later,
        ["features.csv line 2: Date 2010-02-06 is a Saturday", "the weeks of train.csv are dated Fridays"],
    ),
    (
        "a century off",
        "train.csv",
        value(2001, "Date", "2110-02-07"),
        ["train.csv line 2,001: Date 2110-02-07 is more than 20 years away", "median week, 2011-", "correct it"],
    ),
    ("long ago", "features.csv", value(9, "Date", "1910-02-04"), ["features.csv line 9: Date 1910-02-04 is more than"]),
    ("unknown store", "train.csv", value(2001, "Store", "77"), ["train.csv line 2,001: Store 77 is not in stores.csv"]),
    ("unknown store", "features.csv", value(9, "Store", "77"), ["features.csv line 9: Store 77 is not in stores.csv"]),
    ("size 0", "stores.csv", value(3, "Size", "0"), ["stores.csv line 3: Size '0' cannot be: it is less than 1"]),
    ("no store 0", "train.csv", value(9, "Store", "0"), ["train.csv line 9: Store '0' cannot be: it is less than 1"]),
    ("department below 1", "train.csv", value(9, "Dept", "-3"), ["Dept '-3' cannot be: it is less than 1"]),
    ("number beyond all", "train.csv", value(9, "Dept", str(2**53)), ["cannot be: it is more than 2,147,483,647"]),
    ("too hot", "features.csv", value(9, "Temperature", "500"), ["Temperature '500' cannot be: it is more than 140"]),
    (
        "paid to fill up",
        "features.csv",
        value(9, "Fuel_Price", "-1"),
        ["line 9: Fuel_Price '-1' cannot be: it is less"],
    ),
    ("nobody works", "features.csv", value(9, "Unemployment", "150"), ["Unemployment '150' cannot be: it is more"]),
    ("too rich", "train.csv", value(9, "Weekly_Sales", "1e13"), ["Weekly_Sales '1e13' cannot be: it is more than 1,0"]),
    ("type with a space", "stores.csv", value(3, "Type", "A "), ["stores.csv line 3: Type 'A ' is not a text of at"]),
    ("endless type", "stores.csv", value(3, "Type", "A" * 101), ["is not a text of at most 100 characters, all of"]),
    ("type that moves the cursor", "stores.csv", value(3, "Type", "\x1b[2J"), ["Type '\\x1b[2J' is not a text of"]),
    (
        "NUL byte far into the file",
        "stores.csv",
        lambda c: c.replace(b"Size", b"Size,Comment").replace(b"\n", b"," + b"x" * 60_000 + b"\n") + b"\0",
        ["stores.csv is not text"],
    ),
    (
        "live store without features",
        "features.csv",
        lambda c: re.sub(rb"(?m)^2,20(09|1[0-3])-.*\n", b"", c),
        [
            "features.csv has no row for Store 2 from 2010-11-03 to 2012-11-02",
            "sales up to 2012-10-26: add at least one",
        ],
    ),
    (
        "before sales were counted",
        "features.csv",
        lambda c: re.sub(rb"20(\d\d-\d\d-\d\d)", rb"18\1", c),
        ["features.csv line 2: Date 1810-02-05 cannot be: weeks lie in the years 1900 to 2199"],
    ),
    (
        "holidays disagree",
        "train.csv",
        value(3, "IsHoliday", "FALSE"),
        ["train.csv line 3: IsHoliday FALSE for Store 1, 2010-02-12", "features.csv says TRUE", "correct one of them"],
    ),
]


@pytest.mark.parametrize(("file", "edit", "parts"), [pytest.param(*case[1:], id=case[0]) for case in SPOILT])
def test_a_spoilt_file_is_refused_with_the_place_the_value_and_a_remedy(
    landing: Path, file: str, edit: Edit, parts: list[str]
) -> None:
    path = landing / file
    path.write_bytes(edit(path.read_bytes()))
    with pytest.raises(DropRefusedError) as refusal:
        read_drop(landing)
    message = str(refusal.value)
    assert file in message
    assert [part for part in parts if part not in message] == [], message


def test_another_file_under_the_name_is_refused_with_both_headers(landing: Path) -> None:
    shutil.copy(landing / "features.csv", landing / "train.csv")
    with pytest.raises(DropRefusedError) as refusal:
        read_drop(landing)
    assert "train.csv line 1: column 'Dept' and 'Weekly_Sales' is missing" in str(refusal.value)
    assert "the header is 'Store,Date,Temperature," in str(refusal.value)
    assert "expected Store,Dept,Date,Weekly_Sales,IsHoliday" in str(refusal.value)


@pytest.mark.parametrize(
    ("file", "header", "hint"),
    [
        ("features.csv", "Store,Date,IsHoliday", "a column of which nothing is known holds NA in every line"),
        ("train.csv", "store,dept,date,weekly_sales,isholiday", "capitals count"),
        ("stores.csv", "Store;Type;Size", "separated by ';'"),
    ],
)
def test_a_header_without_columns_is_told_what_may_have_been_meant(
    landing: Path, file: str, header: str, hint: str
) -> None:
    (landing / file).write_text(f"{header}\n1,2,3,4,5\n")
    with pytest.raises(DropRefusedError) as refusal:
        read_drop(landing)
    assert hint in str(refusal.value)


def test_a_line_given_twice_counts_once(landing: Path) -> None:
    before = read_drop(landing)
    path = landing / "train.csv"
    path.write_bytes(appended(2001)(path.read_bytes()))
    after = read_drop(landing)
    assert after.train.table.equals(before.train.table)
    assert (before.train.rows, after.train.rows) == (4216, 4217)


def test_spaces_in_the_header_and_columns_that_are_not_known_are_accepted(landing: Path) -> None:
    before = read_drop(landing)
    path = landing / "stores.csv"
    path.write_text(path.read_text().replace("Store,Type,Size", " Store, Type ,Size").replace("\n", ",x\n"))
    assert read_drop(landing).stores.table.equals(before.stores.table)


TINY = {
    "train.csv": b"Store,Dept,Date,Weekly_Sales,IsHoliday\n"
    b"1,1,2010-02-05,24924.5,FALSE\n1,1,2010-02-12,46039.49,TRUE\n2,11,2010-02-05,-3.2,FALSE\n",
    "features.csv": b"Store,Date,Temperature,Fuel_Price,MarkDown1,MarkDown2,MarkDown3,MarkDown4,MarkDown5,CPI,"
    b"Unemployment,IsHoliday\n1,2010-02-05,42.31,2.572,NA,NA,NA,NA,NA,211.1,8.1,FALSE\n"
    b"1,2010-02-12,38.51,2.548,1,,3,4,5,NA,NA,TRUE\n2,2010-02-05,NA,NA,NA,NA,NA,NA,NA,NA,NA,FALSE\n",
    "stores.csv": b"Store,Type,Size\n1,A,151315\n2,B,202307\n",
}
pieces = st.sampled_from(
    [b"", b",", b"\n", b"\r", b'"', b"-", b"\0", b"\xff", b"1", b"9" * 30, b"NA", b"2010-02-19", b";"]
)


@given(st.sampled_from(FILES), st.floats(0, 1), st.integers(0, 40), pieces | st.binary(max_size=4))
def test_any_damage_is_refused_by_name_or_leaves_a_drop_that_can_be_computed(
    tmp_path_factory: pytest.TempPathFactory, file: str, place: float, removed: int, inserted: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    for name, content in TINY.items():
        start = int(place * len(content))
        damaged = content[:start] + inserted + content[start + removed :]
        (folder / name).write_bytes(damaged if name == file else content)
    try:
        drop = read_drop(folder)
    except DropRefusedError as refusal:
        assert ".csv" in str(refusal)  # noqa: PT017 - a refusal is one of two right outcomes
    else:
        assert sales_features_table(drop).rows.num_rows >= drop.train.table.num_rows
        assert store_features_table(drop).rows.num_rows == drop.features.table.num_rows
