"""Published frames are complete and named by their content."""

import datetime
import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.features import TIMESTAMP
from forecast_assets import frame_store
from forecast_assets.atomic import held, remove_unless_held
from forecast_assets.content_hash import content_hash
from forecast_assets.frame_store import DamagedFrameError, FrameStore, Manifest

WEEK_0 = datetime.datetime(2010, 2, 5, tzinfo=datetime.UTC)
CHUNK = 10


def frame_of(amounts: list[float | None]) -> pa.Table:
    weeks = [WEEK_0 + datetime.timedelta(weeks=number // 3) for number in range(len(amounts))]
    return pa.table({TIMESTAMP: pa.array(weeks, pa.timestamp("us", "UTC")), "amount": pa.array(amounts, pa.float64())})


FIRST, SECOND, THIRD = (frame_of([value] * 25) for value in (1.0, None, 3.0))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FrameStore:
    monkeypatch.setattr(frame_store, "ROWS_PER_CHUNK", CHUNK)
    return FrameStore(tmp_path / "frames")


def publish(store: FrameStore, frame: pa.Table) -> Manifest:
    return store.publish(frame, feature_service="service", feature_service_hash="abc")


def kept(store: FrameStore) -> set[str]:
    return {path.name for path in store.folder.iterdir()}


def test_a_published_frame_describes_itself_and_can_be_loaded(store: FrameStore) -> None:
    with pytest.raises(FileNotFoundError, match="holds no training frame yet: materialize training_frame first"):
        store.load()
    manifest = publish(store, FIRST)
    assert (manifest.content_hash, manifest.rows) == (content_hash(FIRST), 25)
    assert (manifest.first_week, manifest.last_week) == ("2010-02-05", "2010-04-02")
    assert (manifest.feature_service, manifest.feature_service_hash) == ("service", "abc")
    assert [column["name"] for column in manifest.columns] == FIRST.column_names
    folder = store.folder / manifest.content_hash
    assert store.current() == (folder, manifest)
    assert json.loads((folder / "manifest.json").read_text()) == asdict(manifest)
    assert {path.name for path in folder.iterdir()} == {
        *("manifest.json", "_SUCCESS", "chunk-00000.parquet", "chunk-00001.parquet", "chunk-00002.parquet"),
    }
    for chunk, rows in zip(manifest.chunks, (10, 10, 5), strict=True):
        path = folder / str(chunk["file"])
        assert (chunk["rows"], pq.read_metadata(path).num_rows) == (rows, rows)
        assert chunk["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert store.load().equals(FIRST)


def test_the_same_content_again_touches_no_file(store: FrameStore) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in [store.folder, *store.folder.rglob("*")]}

    first = publish(store, FIRST)
    before = times()
    assert publish(store, pa.concat_tables([FIRST.slice(0, 7), FIRST.slice(7)])) == first
    assert times() == before


def test_the_previous_frame_is_kept_for_its_readers_and_older_ones_are_removed(store: FrameStore) -> None:
    hashes = [publish(store, frame).content_hash for frame in (FIRST, SECOND, THIRD)]
    assert kept(store) == {"CURRENT", *hashes[1:]}
    publish(store, SECOND)  # back again
    assert store.load().equals(SECOND)
    assert kept(store) == {"CURRENT", *hashes[1:]}


def test_a_frame_that_is_trained_on_stays_until_the_training_is_over(store: FrameStore) -> None:
    first = publish(store, FIRST).content_hash
    with store.in_use(first):
        for frame in (SECOND, THIRD, frame_of([4.0] * 25)):
            publish(store, frame)
        assert first in kept(store)
    latest = [publish(store, frame).content_hash for frame in (frame_of([5.0] * 25), frame_of([6.0] * 25))]
    assert kept(store) == {"CURRENT", *latest}


def test_a_frame_that_is_gone_before_its_training_begins_is_named(store: FrameStore) -> None:
    first = publish(store, FIRST).content_hash
    for frame in (SECOND, THIRD):
        publish(store, frame)

    with pytest.raises(DamagedFrameError, match=f"{first[:12]} is gone"), store.in_use(first):
        pass


def test_a_folder_that_is_being_removed_cannot_be_held_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, came = tmp_path / "folder", threading.Event()
    folder.mkdir()
    gone: list[bool] = []

    def come() -> None:
        came.set()
        try:
            with held(folder):
                gone.append(False)
        except FileNotFoundError:
            gone.append(True)

    def slow(path: Path, **options: Any) -> None:
        waiting.start()
        came.wait(10)
        time.sleep(0.1)
        rmtree(path, **options)

    rmtree, waiting = shutil.rmtree, threading.Thread(target=come)
    monkeypatch.setattr(shutil, "rmtree", slow)
    remove_unless_held(folder)
    waiting.join(10)
    assert gone == [True]


def test_at_every_step_of_a_publication_readers_find_a_complete_frame(
    store: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, FIRST)
    publish(store, SECOND)
    opened = store.current()
    seen = []

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            seen.append(store.load())
            result = step(*arguments, **options)
            seen.append(store.load())
            return result

        return run

    for module, step in (
        *((pq, "write_table"), (shutil, "rmtree")),
        *((frame_store, "publish_directory"), (frame_store, "write_reference")),
    ):
        monkeypatch.setattr(module, step, watched(getattr(module, step)))
    publish(store, THIRD)

    changes = [frame.equals(THIRD) for frame in seen]
    assert changes == sorted(changes)
    assert all(frame.equals(SECOND) or frame.equals(THIRD) for frame in seen)
    assert (changes[0], changes[-1]) == (False, True)
    assert opened is not None
    folder, manifest = opened
    assert sum(pq.read_table(folder / str(chunk["file"])).num_rows for chunk in manifest.chunks) == 25


def test_a_publication_that_fails_leaves_the_old_frame_and_nothing_else(
    store: FrameStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    publish(store, FIRST)
    before = kept(store)
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", fail)
        with pytest.raises(OSError, match="disk full"):
            publish(store, SECOND)
    assert kept(store) == before
    assert store.load().equals(FIRST)


def test_a_frame_without_its_completion_marker_is_written_again(store: FrameStore) -> None:
    folder = store.folder / publish(store, FIRST).content_hash
    (folder / "_SUCCESS").unlink()
    (folder / "chunk-00001.parquet").unlink()
    publish(store, FIRST)
    assert (folder / "_SUCCESS").exists()
    assert store.load().equals(FIRST)


@pytest.mark.parametrize("piece", [1, 4, 10, 25, 40])
def test_a_frame_staged_piece_by_piece_is_the_one_published_whole(store: FrameStore, piece: int) -> None:
    with store.stage(FIRST.schema) as staged:
        for batch in FIRST.to_batches(max_chunksize=piece):
            staged.write(batch)
        assert store.current() is None
        in_pieces = staged.publish(feature_service="service", feature_service_hash="abc")
    assert in_pieces == publish(FrameStore(store.folder.with_name("whole")), FIRST)
    assert store.load().equals(FIRST)


def test_a_staged_frame_that_is_not_published_leaves_nothing_and_an_empty_one_is_refused(store: FrameStore) -> None:
    with store.stage(FIRST.schema) as staged:
        with pytest.raises(ValueError, match="no rows"):
            staged.publish(feature_service="service", feature_service_hash="abc")
        staged.write(FIRST)
    assert kept(store) == set()


NAN = float("nan")
VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int64(): st.integers(-1, 1) | st.integers(-(2**63), 2**63 - 1),
    pa.int32(): st.integers(-1, 1),
    pa.float64(): st.sampled_from([0.0, -0.0, 1.0, NAN]) | st.floats(allow_nan=False),
    pa.bool_(): st.booleans(),
    pa.string(): st.sampled_from(["", "0", "a"]) | st.text(max_size=3),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(datetime.UTC)),
}
columns = st.sampled_from(list(VALUES)).flatmap(
    lambda kind: st.lists(st.none() | VALUES[kind], min_size=1, max_size=5).map(lambda values: pa.array(values, kind))
)


@given(columns)
def test_the_hash_does_not_depend_on_chunks(column: pa.Array) -> None:
    whole = pa.table({"a": column})
    for cut in range(len(column)):
        assert content_hash(pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])) == content_hash(whole)


@given(columns, st.data())
def test_any_other_value_gives_another_hash(column: pa.Array, data: st.DataObject) -> None:
    new = data.draw(st.none() | VALUES[column.type])
    values = column.to_pylist()
    place = data.draw(st.integers(0, len(values) - 1))
    changed = pa.array([*values[:place], new, *values[place + 1 :]], column.type)
    hashes = {content_hash(pa.table({"a": array})) for array in (column, changed)}
    unchanged = repr(changed.to_pylist()) == repr(values)  # repr tells 0 from -0, and to it NaN is NaN
    assert len(hashes) == (1 if unchanged else 2)


def test_missing_zero_and_not_a_number_names_types_and_orders_all_count() -> None:
    floats = [pa.array([value], pa.float64()) for value in (None, 0.0, -0.0, NAN)]
    texts = [pa.array(values) for values in (["", None], [None, ""], ["", ""], ["a", "b"], ["b", "a"], ["ab", ""])]
    tables = [
        pa.table({"a": column}) for column in (*floats, *texts, pa.array([0], pa.int64()), pa.array([0], pa.int32()))
    ]
    one, two = pa.array([1]), pa.array([2])
    tables += [pa.table({"b": floats[0]}), pa.table({"a": one, "b": two}), pa.table({"b": two, "a": one})]
    tables += [pa.table({"a": two, "b": one}), pa.table({"a": pa.array([], pa.int64())}), pa.table({})]
    assert len({content_hash(table) for table in tables}) == len(tables)


def test_the_frame_before_the_current_one_can_be_read(tmp_path: Path) -> None:
    store = FrameStore(tmp_path)
    for week in (1, 2):
        stamp = pa.array([week * 7 * 24 * 3600 * 10**6], pa.timestamp("us", "UTC"))
        assert store.previous() is None or week == 2
        store.publish(pa.table({TIMESTAMP: stamp}), feature_service="", feature_service_hash="")

    previous = store.previous()
    assert previous is not None
    assert previous[TIMESTAMP][0].as_py().day == 8


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["chunk-00000.parquet", "manifest.json"])
@pytest.mark.parametrize("spoil", [flip_a_bit, Path.unlink, Path.touch])
def test_a_damaged_frame_is_named_and_made_whole_by_publishing_it_again(
    store: FrameStore, file: str, spoil: Callable[[Path], None]
) -> None:
    folder = store.folder / publish(store, FIRST).content_hash
    spoil(folder / file)
    if spoil is Path.touch:
        (folder / file).write_bytes(b"")

    with pytest.raises(DamagedFrameError, match=rf"{file} is missing or damaged: materialize training_frame again"):
        store.load()
    publish(store, FIRST)

    assert store.load().equals(FIRST)


def test_a_damaged_earlier_frame_is_as_if_there_were_none(store: FrameStore) -> None:
    flip_a_bit(store.folder / publish(store, FIRST).content_hash / "chunk-00000.parquet")
    publish(store, SECOND)
    assert store.previous() is None


def test_what_a_killed_writer_left_goes_and_what_another_one_writes_stays(store: FrameStore) -> None:
    left = store.folder / ".staging-of-a-killed-one"
    left.mkdir(parents=True)
    (left / "chunk-00000.parquet").touch()
    with store.stage(FIRST.schema) as other:
        publish(store, SECOND)
        assert not left.exists()
        other.write(FIRST)
        other.publish(feature_service="", feature_service_hash="")
    assert store.load().equals(FIRST)
    assert [path for path in store.folder.iterdir() if path.name.startswith(".")] == []
