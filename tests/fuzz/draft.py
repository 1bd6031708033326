"""A drop in the making: rows of text that mutations edit, bytes that they edit after that, and files to be written."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Self

FILES = ("train.csv", "features.csv", "stores.csv")

Row = list[str]
EditBytes = Callable[[bytes], bytes]


@dataclass
class Draft:
    """What a drop will be.

    Attributes:
        rows: of each file, its header first.
        edits: what is done to a file's bytes, in order.
        suffixes: added to a file's name, for packed ones.
        absent: files that are not sent.
        beside: more files, by name.
    """

    rows: dict[str, list[Row]]
    separator: str = ","
    edits: list[tuple[str, EditBytes]] = field(default_factory=list)
    suffixes: dict[str, str] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    beside: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The drop that lies in ``folder``, without a mutation."""
        return cls({name: [line.split(",") for line in (folder / name).read_text().splitlines()] for name in FILES})

    def copy(self) -> "Draft":
        """Another one, whose rows can be edited."""
        return Draft({name: [list(row) for row in rows] for name, rows in self.rows.items()})

    def position(self, file: str, column: str) -> int:
        """Where a column is; an earlier mutation may have renamed or moved it."""
        header = self.rows[file][0]
        return header.index(column) if column in header else len(header) - 1

    def any_row(self, rng: random.Random, file: str) -> int:
        """The index of a row after the header."""
        return rng.randrange(1, len(self.rows[file]))

    def set(self, file: str, row: int, column: str, value: str) -> None:
        """Replace one value."""
        self.rows[file][row][self.position(file, column)] = value

    def each(self, file: str, column: str, change: Callable[[str], str]) -> None:
        """Change every value of a column."""
        position = self.position(file, column)
        for row in self.rows[file][1:]:
            row[position] = change(row[position])

    def keep(self, file: str, keeps: Callable[[Row], bool]) -> None:
        """Leave out the rows after the header that ``keeps`` does not hold for."""
        header, *rows = self.rows[file]
        self.rows[file] = [header, *(row for row in rows if keeps(row))]

    def values(self, file: str, column: str) -> list[str]:
        """The different values of a column, sorted."""
        position = self.position(file, column)
        return sorted({row[position] for row in self.rows[file][1:]})

    def content(self, file: str) -> bytes:
        """The bytes of a file as it will be sent."""
        text = "".join(self.separator.join(row) + "\n" for row in self.rows[file])
        content = text.encode("utf-8", errors="surrogatepass")
        for edited, edit in self.edits:
            if edited == file:
                content = edit(content)
        return content

    def touched(self, before: "Draft") -> list[str]:
        """The files that are not sent as they were before: others, or elsewhere, or not at all, or twice."""
        return [
            name
            for name in FILES
            if name in self.absent
            or name in self.suffixes
            or any(extra.startswith(name) for extra in self.beside)
            or self.content(name) != before.content(name)
        ]

    def one_line_changed(self, before: "Draft", name: str) -> int | None:
        """The number of the line of a file that is another than before, if nothing else of it has changed."""
        if name in self.absent or self.beside:
            return None
        lines, lines_before = (draft.content(name).splitlines() for draft in (self, before))
        changed = [n for n, pair in enumerate(zip(lines, lines_before, strict=False), 1) if pair[0] != pair[1]]
        return changed[0] if len(lines) == len(lines_before) and len(changed) == 1 else None

    def write(self, folder: Path) -> None:
        """Put the files into ``folder``."""
        for name in FILES:
            if name not in self.absent:
                (folder / (name + self.suffixes.get(name, ""))).write_bytes(self.content(name))
        for name, content in self.beside.items():
            (folder / name).write_bytes(content)


def later(day: str, days: int) -> str:
    """The ISO date so many days after ``day``; other texts are left as they are."""
    try:
        return (date.fromisoformat(day) + timedelta(days=days)).isoformat()
    except (ValueError, OverflowError):
        return day
