"""Mutations of how a drop is written: headers, encodings, separators, packing, single values."""

import gzip
import io
import random
import zipfile
from collections.abc import Callable

from .draft import FILES, Draft, EditBytes

Mutation = Callable[[Draft, random.Random], None]

NUMBERS = {
    "train.csv": ("Store", "Dept", "Weekly_Sales"),
    "features.csv": ("Store", "Temperature", "Fuel_Price", "MarkDown1", "MarkDown5", "CPI", "Unemployment"),
    "stores.csv": ("Store", "Size"),
}
DATED = ("train.csv", "features.csv")
FLAGS = ("yes", "1", "0", "T", "tRUE", "", "NA", "TRUE ", "FALSE;")
INJECTIONS = (
    "'; DROP TABLE sales_features; --",
    '"); DELETE FROM store_features; --',
    "$(touch /tmp/owned)",
    "../../etc/passwd",
    "=HYPERLINK(1)",
    "{store!r}",
    "%s",
    "\x1b[31mred",
    "A\u202eB",
    "A\u200b",
    "<script>alert(1)</script>",
)


def _any_file(rng: random.Random) -> str:
    return rng.choice(FILES)


def _bytes_of(edit: Callable[[bytes, random.Random], bytes], *, of: tuple[str, ...] = FILES) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        seed = rng.random()
        draft.edits.append((rng.choice(of), lambda content: edit(content, random.Random(seed))))

    return mutate


def _number(*values: str) -> Mutation:
    """One number of one file becomes one of ``values``, in which ``#`` stands for what it was."""

    def mutate(draft: Draft, rng: random.Random) -> None:
        file = _any_file(rng)
        column = rng.choice(NUMBERS[file])
        row = draft.any_row(rng, file)
        old = draft.rows[file][row][draft.position(file, column)]
        draft.set(file, row, column, rng.choice(values).replace("#", old))

    return mutate


def _date(*values: str) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        file = rng.choice(DATED)
        row = draft.any_row(rng, file)
        old = draft.rows[file][row][draft.position(file, "Date")]
        year, month, day = (old.split("-") * 3)[:3]
        new = rng.choice(values).replace("#", old).replace("YYYY", year).replace("MM", month).replace("DD", day)
        draft.set(file, row, "Date", new)

    return mutate


def _all_dates(pattern: str) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        def written(old: str) -> str:
            year, month, day = (old.split("-") * 3)[:3]
            return pattern.replace("YYYY", year).replace("MM", month).replace("DD", day)

        for file in DATED if rng.random() < 0.5 else (rng.choice(DATED),):
            draft.each(file, "Date", written)

    return mutate


def _header(change: Callable[[list[str], random.Random], list[str]]) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        file = _any_file(rng)
        draft.rows[file][0] = change(draft.rows[file][0], rng)

    return mutate


def _changed_at(change: Callable[[str], str]) -> Callable[[list[str], random.Random], list[str]]:
    def apply(header: list[str], rng: random.Random) -> list[str]:
        place = rng.randrange(len(header))
        return [change(name) if number == place else name for number, name in enumerate(header)]

    return apply


def _drop_column(draft: Draft, rng: random.Random) -> None:
    file = _any_file(rng)
    place = rng.randrange(len(draft.rows[file][0]))
    draft.rows[file] = [row[:place] + row[place + 1 :] for row in draft.rows[file]]


def _add_column(draft: Draft, rng: random.Random) -> None:
    file = _any_file(rng)
    place = rng.randrange(len(draft.rows[file][0]) + 1)
    name = rng.choice(["Region", "", "Store", "Comment"])
    draft.rows[file] = [
        [*row[:place], name if number == 0 else f"x{number}", *row[place:]]
        for number, row in enumerate(draft.rows[file])
    ]


def _reorder_columns(draft: Draft, rng: random.Random) -> None:
    file = _any_file(rng)
    order = rng.sample(range(len(draft.rows[file][0])), len(draft.rows[file][0]))
    draft.rows[file] = [[row[place] for place in order if place < len(row)] for row in draft.rows[file]]


def _reorder_rows(draft: Draft, rng: random.Random) -> None:
    file = _any_file(rng)
    header, *rows = draft.rows[file]
    rng.shuffle(rows)
    draft.rows[file] = [header, *rows]


def _no_header(draft: Draft, rng: random.Random) -> None:
    del draft.rows[_any_file(rng)][0]


def _exchanged(draft: Draft, rng: random.Random) -> None:
    one, other = rng.sample(FILES, 2)
    draft.rows[one] = draft.rows[other]


def _sent_twice(draft: Draft, rng: random.Random) -> None:
    file = _any_file(rng)
    draft.beside[f"{file}.gz"] = gzip.compress(draft.content(file))


def _header_again(draft: Draft, rng: random.Random) -> None:
    file = _any_file(rng)
    draft.rows[file].insert(draft.any_row(rng, file), list(draft.rows[file][0]))


def _separated_by(separator: str) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        draft.edits.append((_any_file(rng), lambda content: content.replace(b",", separator.encode())))

    return mutate


def _field(value: Callable[[str, random.Random], str]) -> Mutation:
    """Any field of any file."""

    def mutate(draft: Draft, rng: random.Random) -> None:
        file = _any_file(rng)
        row = draft.rows[file][draft.any_row(rng, file)]
        place = rng.randrange(len(row))
        row[place] = value(row[place], rng)

    return mutate


def _every_field(value: Callable[[str], str]) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        file = _any_file(rng)
        draft.rows[file] = [[value(each) for each in row] for row in draft.rows[file]]

    return mutate


def _store_type(*values: str) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        draft.set("stores.csv", draft.any_row(rng, "stores.csv"), "Type", rng.choice(values))

    return mutate


def _flag(draft: Draft, rng: random.Random) -> None:
    file = rng.choice(DATED)
    draft.set(file, draft.any_row(rng, file), "IsHoliday", rng.choice(FLAGS))


def _inserted(*pieces: bytes) -> Mutation:
    def edit(content: bytes, rng: random.Random) -> bytes:
        place = rng.randrange(len(content) + 1)
        return content[:place] + rng.choice(pieces) + content[place:]

    return _bytes_of(edit)


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _cut_at_line(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(lines[: rng.randrange(1, len(lines))])


def _removed(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.randrange(1, 60) :]


def _flipped(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def _mixed_line_ends(content: bytes, _: random.Random) -> bytes:
    return b"".join(line + (b"\n", b"\r\n", b"\r")[number % 3] for number, line in enumerate(content.split(b"\n")[:-1]))


def zipped(content: bytes, *names: str) -> bytes:
    """An archive in which each of ``names`` holds ``content``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def _packed(suffix: str, pack: EditBytes) -> Mutation:
    def mutate(draft: Draft, rng: random.Random) -> None:
        file = _any_file(rng)
        draft.suffixes[file] = suffix
        draft.edits.append((file, pack))

    return mutate


def _damaged_archive(draft: Draft, rng: random.Random) -> None:
    _packed(*rng.choice([(".gz", gzip.compress), (".zip", lambda content: zipped(content, "x.csv"))]))(draft, rng)
    seed, (file, _) = rng.random(), draft.edits[-1]
    spoil = rng.choice([_cut, _flipped, _removed])
    draft.edits.append((file, lambda content: spoil(content, random.Random(seed))))


TEXT_MUTATIONS: dict[str, Mutation] = {
    "header: column left out": _drop_column,
    "header: column added": _add_column,
    "header: columns in another order": _reorder_columns,
    "header: name changed": _header(_changed_at(lambda name: name + "_2")),
    "header: other case": _header(_changed_at(str.lower)),
    "header: spaces around a name": _header(_changed_at(lambda name: f"  {name} ")),
    "header: quoted name": _header(_changed_at(lambda name: f'"{name}"')),
    "header: name twice": _header(lambda header, rng: [*header[:-1], rng.choice(header[:-1])]),
    "header: missing": _no_header,
    "header: again among the rows": _header_again,
    "encoding: byte-order mark": _bytes_of(lambda content, _: b"\xef\xbb\xbf" + content),
    "encoding: UTF-16": _bytes_of(lambda content, _: content.decode("utf-8").encode("utf-16")),
    "encoding: bytes that are not UTF-8": _inserted(b"\xe9", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80"),
    "encoding: NUL bytes": _inserted(b"\0", b"\0" * 100),
    "encoding: invisible or foreign characters": _inserted(
        *(text.encode() for text in ("\u00a0", "\u200b", "\u2028", "\u0663", "\u2212", "\x1a", "\x0c", "\x0b"))
    ),
    "lines: CRLF": _bytes_of(lambda content, _: content.replace(b"\n", b"\r\n")),
    "lines: CR": _bytes_of(lambda content, _: content.replace(b"\n", b"\r")),
    "lines: mixed ends": _bytes_of(_mixed_line_ends),
    "lines: blank one": _inserted(b"\n\n", b"\r\r", b"\n \n"),
    "lines: in another order": _reorder_rows,
    "separator: semicolon": _separated_by(";"),
    "separator: tab": _separated_by("\t"),
    "separator: within quotes": _field(lambda value, rng: f'"{value},{rng.randrange(99)}"'),
    "separator: one too many": _field(lambda value, _: value + ","),
    "quotes: around every field": _every_field(lambda value: f'"{value}"'),
    "quotes: around one field": _field(lambda value, _: f'"{value}"'),
    "quotes: a stray one": _inserted(b'"', b"'", b'""'),
    "quotes: a line end within": _field(lambda value, _: f'"{value}\n"'),
    "spaces: around every field": _every_field(lambda value: f" {value} "),
    "spaces: around one field": _field(lambda value, rng: rng.choice([" #", "# ", "\t#"]).replace("#", value)),
    "number: nan or inf": _number("nan", "NaN", "inf", "-Infinity", "1e999", "null", "None", "#NUM!"),
    "number: a word": _number("abc", "-", "--5", "1-2", "O", "l00"),
    "number: thousands or decimal comma": _number('"1,234.5"', "1.234.5", "1'234", "1_000", '"12,5"'),
    "number: unit or currency": _number("$#", "#%", "# USD", "(#)", "#F"),
    "number: written otherwise": _number("+#", "00#", "#.0", "1e3", ".5", "5.", "-0", "-0.0", "1E+2"),
    "number: hexadecimal": _number("0x1F", "0b1", "0o7", "1f"),
    "number: beyond 64 bits": _number("9223372036854775808", "9" * 40, "-9223372036854775809"),
    "number: at the edge of 64 bits": _number("9223372036854775807", "-9223372036854775808", "4611686018427387904"),
    "number: at the edge of doubles": _number("1.7976931348623157e308", "-1e308", "1e200", "5e-324"),
    "number: empty": _number("", "NA", "n/a", "N/A"),
    "date: another format": _date(
        "DD/MM/YYYY", "MM/DD/YYYY", "YYYYMMDD", "YYYY/MM/DD", "#T00:00:00", "# 00:00", "40200"
    ),
    "date: another format throughout": _all_dates("MM/DD/YYYY"),
    "date: no such day": _date("YYYY-02-30", "YYYY-13-01", "YYYY-00-10", "YYYY-MM-00", "YYYY-MM-32", "0000-00-00"),
    "date: at the edge of the calendar": _date("0001-01-05", "9999-12-31", "1970-01-02", "10000-01-01", "-0001-01-01"),
    "date: throughout in another century": _all_dates("9999-MM-DD"),
    "flag: another word": _flag,
    "field: tens of thousands of characters": _field(lambda value, rng: value * rng.choice([5_000, 20_000, 200_000])),
    "field: injected": _field(lambda _, rng: rng.choice(INJECTIONS)),
    "store type: injected": _store_type(*INJECTIONS),
    "store type: long, empty or NA": _store_type("A" * 60_000, "", "NA", " ", "a", "Ä", "A,B", '"A,B"', "\u0000"),
    "file: empty": _bytes_of(lambda _, __: b""),
    "file: header only": _bytes_of(lambda content, _: content.split(b"\n")[0]),
    "file: cut anywhere": _bytes_of(_cut),
    "file: cut at the end of a line": _bytes_of(_cut_at_line),
    "file: some bytes gone": _bytes_of(_removed),
    "file: a bit flipped": _bytes_of(_flipped),
    "file: not there": lambda draft, rng: draft.absent.add(_any_file(rng)),
    "file: another one's content": _exchanged,
    "file: packed and plain together": _sent_twice,
    "packed: gzip": _packed(".gz", gzip.compress),
    "packed: zip": _packed(".zip", lambda content: zipped(content, "anything.csv")),
    "packed: twice": _packed(".gz", lambda content: gzip.compress(gzip.compress(content))),
    "packed: several or no files": _packed(".zip", lambda content: zipped(content, "a.csv", "../../b.csv")),
    "packed: damaged": _damaged_archive,
}
