"""Writing the differing rows and removing the gone ones turns the old table into the new."""

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from forecast_assets.ingest.table_diff import differing_rows

Content = dict[tuple[int, int], tuple[float | None, str | None]]

keys = st.tuples(st.integers(-3, 3), st.integers(0, 10**9))
values = st.tuples(st.none() | st.sampled_from([0.0, 1.5, -2.0]), st.none() | st.sampled_from(["", "a"]))
contents = st.dictionaries(keys, values, max_size=6)


def table_of(content: Content) -> pa.Table:
    rows: list[dict[str, Any]] = [{"a": a, "b": b, "x": x, "y": y} for (a, b), (x, y) in content.items()]
    return pa.Table.from_pylist(rows, pa.schema({"a": "int64", "b": "int64", "x": "float64", "y": "string"}))


def content_of(table: pa.Table) -> Content:
    return {(row["a"], row["b"]): (row["x"], row["y"]) for row in table.to_pylist()}


@given(old=contents, new=contents)
def test_the_differences_turn_the_old_table_into_the_new(old: Content, new: Content) -> None:
    changed, gone = differing_rows(table_of(old), table_of(new), ["a", "b"])

    assert content_of(changed) == {key: value for key, value in new.items() if old.get(key) != value or key not in old}
    assert {(row["a"], row["b"]) for row in gone.to_pylist()} == old.keys() - new.keys()
