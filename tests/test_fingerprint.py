"""Fingerprints tell which rows to write and which to remove to turn the old table into the new."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forecast_assets.ingest.fingerprint import changes, fingerprint, from_bytes, to_bytes

Content = dict[tuple[int, int], tuple[float | None, str | None, bool | None]]

KEY = ["a", "b"]
SCHEMA = pa.schema({"a": "int64", "b": "int64", "x": "float64", "y": "string", "z": "bool"})
# Numbers that, put one after the other, would not fit into 64 bits.
wide = st.sampled_from([-(2**63), -(2**31), 2**31, 2**62, 2**63 - 1])
keys = st.tuples(st.integers(-3, 3) | wide, st.integers(0, 10**9) | wide)
values = st.tuples(
    st.none() | st.sampled_from([0.0, 1.5, -2.0]), st.none() | st.sampled_from(["", "a"]), st.none() | st.booleans()
)
contents = st.dictionaries(keys, values, max_size=6)


def table_of(content: Content) -> pa.Table:
    rows: list[dict[str, Any]] = [{"a": a, "b": b, "x": x, "y": y, "z": z} for (a, b), (x, y, z) in content.items()]
    return pa.Table.from_pylist(rows, SCHEMA)


@given(old=contents, new=contents)
def test_the_changes_turn_the_old_table_into_the_new(old: Content, new: Content) -> None:
    kept = from_bytes(to_bytes(fingerprint(table_of(old), KEY)))
    mask, gone = changes(kept, fingerprint(table_of(new), KEY), KEY)

    to_write = [key for key, written in zip(new, mask, strict=True) if written]
    assert set(to_write) == {key for key, value in new.items() if key not in old or old[key] != value}
    assert {(row["a"], row["b"]) for row in gone.to_pylist()} == old.keys() - new.keys()


def test_values_moved_to_the_neighbouring_column_or_row_change_the_hashes() -> None:
    def hashes(*rows: tuple[float, float]) -> list[int]:
        table = pa.table({"a": list(range(len(rows))), "x": [x for x, _ in rows], "y": [y for _, y in rows]})
        return fingerprint(table, ["a"])["row_hash"].to_pylist()

    assert hashes((1.0, 2.0)) != hashes((2.0, 1.0))
    assert len(set(hashes((1.0, 2.0), (1.0, 2.0)))) == 2


@pytest.mark.parametrize("second", [[2.0, None], [3.0, 2.0], [2.0], [2.0, 3.0, None], [], None])
def test_another_list_changes_the_hash_of_its_row_alone(second: list[float | None] | None) -> None:
    def table(window: list[float | None] | None) -> pa.Table:
        return pa.table({"a": [1, 2], "b": [1, 1], "w": pa.array([[1.0, None], window], pa.list_(pa.float64()))})

    mask, _ = changes(fingerprint(table([2.0, 3.0]), KEY), fingerprint(table(second), KEY), KEY)
    assert mask.tolist() == [False, True]
