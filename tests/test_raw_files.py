"""The same table is the same content, however its file was written or packed."""

import contextlib
import gzip
import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast_assets.ingest import files
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.files import DropRefusedError, read_file
from forecast_assets.raw_store import DamagedDropError, RawStore

FILES = ("train.csv", "features.csv", "stores.csv")


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/._train.csv", b"what macOS adds")
        archive.writestr("export/of monday.csv", content)
    return buffer.getvalue()


def mixed_line_ends(content: bytes) -> bytes:
    lines = content.split(b"\n")
    return b"".join(line + (b"\n", b"\r\n", b"\r")[number % 3] for number, line in enumerate(lines[:-1]))


FORMS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "CR": ("", lambda c: c.replace(b"\n", b"\r")),
    "CRLF": ("", lambda c: c.replace(b"\n", b"\r\n")),
    "mixed": ("", mixed_line_ends),
    "byte-order mark": ("", lambda c: b"\xef\xbb\xbf" + c),
    "no final newline": ("", lambda c: c.removesuffix(b"\n")),
    "blank lines at the end": ("", lambda c: c + b"\r\n\n"),
    "gzip": (".gz", gzip.compress),
    "gzip without its suffix": ("", gzip.compress),
    "zip": (".zip", zipped),
    "all at once": (".zip", lambda c: zipped(b"\xef\xbb\xbf" + c.removesuffix(b"\n").replace(b"\n", b"\r\n"))),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_in_another_form_has_the_same_table_and_the_same_hash(
    small_drop: Path, landing: Path, form: str
) -> None:
    suffix, write = FORMS[form]
    for name in FILES:
        content = (landing / name).read_bytes()
        (landing / name).unlink()
        (landing / (name + suffix)).write_bytes(write(content))
    for ours, original in zip(read_drop(landing).files, read_drop(small_drop).files, strict=True):
        assert ours.table.equals(original.table)
        assert (ours.content_hash, ours.rows) == (original.content_hash, original.rows)
        assert ours.source.name == ours.name + suffix


def test_one_other_value_gives_another_hash_to_that_file_only(small_drop: Path, landing: Path) -> None:
    stores = landing / "stores.csv"
    stores.write_text(stores.read_text().replace("1,C,", "1,B,", 1))
    differing = [
        ours.name
        for ours, original in zip(read_drop(landing).files, read_drop(small_drop).files, strict=True)
        if ours.content_hash != original.content_hash
    ]
    assert differing == ["stores.csv"]


lines = st.lists(st.text("abc,1é", min_size=1, max_size=6), min_size=1, max_size=8)


@given(lines, st.data())
def test_no_choice_of_line_ends_changes_the_text(
    tmp_path_factory: pytest.TempPathFactory, rows: list[str], data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    ends = data.draw(st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=len(rows), max_size=len(rows)))
    (folder / "a.csv").write_bytes("".join(map("".join, zip(rows, ends, strict=True))).encode())
    read = read_file(folder, "a.csv")
    assert read.text.decode() == "\n".join(rows) + "\n"
    assert read.ends_with_newline


@pytest.mark.parametrize("write", [bytes, gzip.compress, zipped], ids=["plain", "gzip", "zip"])
def test_a_file_that_unpacks_beyond_the_bound_is_not_read_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 5_000)
    (tmp_path / "train.csv").write_bytes(write(b"a,b\n" * 1_250))
    assert len(read_file(tmp_path, "train.csv").text) == 5_000
    (tmp_path / "train.csv").write_bytes(write(b"a,b\n" * 1_251))
    with pytest.raises(DropRefusedError, match=r"train\.csv unpacks to more than 5,000 bytes: it was not read further"):
        read_file(tmp_path, "train.csv")


def test_what_was_accepted_can_be_loaded_again_as_it_was(small_drop: Path, tmp_path: Path) -> None:
    store, drop = RawStore(tmp_path / "raw"), read_drop(small_drop)
    with pytest.raises(FileNotFoundError, match="holds no accepted drop yet: materialize train_csv first"):
        store.load()
    store.save(drop)
    for loaded, saved in zip(store.load().files, drop.files, strict=True):
        assert loaded.table.equals(saved.table)
        assert (loaded.name, loaded.source, loaded.content_hash) == (saved.name, saved.source, saved.content_hash)
        assert (loaded.rows, loaded.weeks) == (saved.rows, saved.weeks)


def test_data_that_move_to_another_folder_still_know_where_their_drop_came_from(
    small_drop: Path, tmp_path: Path
) -> None:
    shutil.copytree(small_drop, tmp_path / "old" / "landing")
    for landing in (small_drop, tmp_path / "old" / "landing"):
        RawStore(tmp_path / "old" / "raw").save(read_drop(landing))
        assert RawStore(tmp_path / "old" / "raw").came_from() == landing

    (tmp_path / "old").rename(tmp_path / "new")

    store = RawStore(tmp_path / "new" / "raw")
    assert store.came_from() == tmp_path / "new" / "landing"
    assert store.load().train.source == tmp_path / "new" / "landing" / "train.csv"


def test_saving_touches_only_what_changed_and_keeps_one_copy_of_each_file(landing: Path, tmp_path: Path) -> None:
    store = RawStore(tmp_path / "raw")

    def kept() -> dict[str, int]:
        return {str(path.relative_to(store.folder)): path.stat().st_mtime_ns for path in store.folder.rglob("*.*")}

    store.save(read_drop(landing))
    first = kept()
    store.save(read_drop(landing))
    assert kept() == first
    (landing / "stores.csv").write_text("Store,Type,Size\n1,A,1\n2,B,2\n3,C,3\n")
    store.save(read_drop(landing))
    assert {name.partition("/")[0] for name, _ in kept().items() - first.items()} == {"stores"}
    assert len(kept()) == len(FILES)
    assert store.load().stores.table["Size"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize("spoil", [lambda c: c[:-1], lambda _: b"", lambda c: c[:99] + bytes([c[99] ^ 4]) + c[100:]])
@pytest.mark.parametrize("file", ["train/*.parquet", "CURRENT"])
def test_a_kept_file_that_is_damaged_is_named_and_made_whole_by_the_same_drop(
    small_drop: Path, tmp_path: Path, file: str, spoil: Callable[[bytes], bytes]
) -> None:
    store, drop = RawStore(tmp_path), read_drop(small_drop)
    store.save(drop)
    (damaged,) = tmp_path.glob(file)
    damaged.write_bytes(spoil(damaged.read_bytes()))

    with contextlib.suppress(DamagedDropError):  # a cut line end in CURRENT does no harm
        assert store.load().train.table.equals(drop.train.table)
    store.save(drop)

    assert store.load().train.table.equals(drop.train.table)


def test_damage_to_a_kept_file_does_not_pass_for_the_drop(small_drop: Path, tmp_path: Path) -> None:
    store = RawStore(tmp_path)
    store.save(read_drop(small_drop))
    (kept,) = tmp_path.glob("features/*.parquet")
    kept.write_bytes(kept.read_bytes()[:-9] + b"x" * 9)
    with pytest.raises(DamagedDropError, match=r"kept of the accepted features\.csv, is missing or damaged: material"):
        store.load()
