"""The pandera schema of the training frame, derived from the feature list.

What is impossible is an error here. Ranges are those that follow from what a column means, not from one data set:
returns make weeks negative, and a department may sell any amount.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import ENTITY_KEYS, FRAME_FEATURES, LABEL, STORE_EXTERNAL, TIMESTAMP, Feature

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa_pandas

_RANGES: dict[str, tuple[float | None, float | None]] = {
    "week_of_year": (1, 53),
    "month": (1, 12),
    "quarter": (1, 4),
    "sales_rolling_std_4": (0, None),
    "weeks_since_last_sale": (1, None),
    "unemployment": (0, 100),
    "fuel_price": (0, None),
    "temperature": (-130, 140),
    "store_size": (1, None),
    "temperature_normalized": (0, 1),
    "seasonal_sine": (-1, 1),
    "seasonal_cosine": (-1, 1),
    "demand_stability_score": (0, 1),
}
# The history of a series' first weeks is missing, and feeds may start late; what identifies a row may not be missing.
_SHOWN_FAILURES = 20
_KEY = [*ENTITY_KEYS, TIMESTAMP]


@dataclass(frozen=True, slots=True)
class Failure:
    """A rule that the frame breaks: where, and with which values first."""

    column: str
    rule: str
    rows: int
    first_values: str


def training_frame_schema() -> "pa_pandas.DataFrameSchema":
    """Types, ranges and missing values of any part of the training frame."""
    import pandera.pandas as pa_pandas

    columns = {key: pa_pandas.Column("int64", pa_pandas.Check.ge(1)) for key in ENTITY_KEYS}
    columns[TIMESTAMP] = pa_pandas.Column("datetime64[us, UTC]")
    for feature in FRAME_FEATURES:
        columns[feature.name] = _column(feature)
    return pa_pandas.DataFrameSchema(columns, strict=True, ordered=True)


def validate_training_frame(frame: pa.Table) -> list[Failure]:
    """Every rule that the frame breaks, all of them found in one pass; empty for a good frame."""
    validator = FrameValidator()
    validator.check(frame)
    return validator.failures()


class FrameValidator:
    """Checks a training frame that comes piece by piece. Of what has passed it keeps the keys, to find copies."""

    def __init__(self) -> None:
        self._schema = training_frame_schema()
        self._failures: dict[tuple[str, str], Failure] = {}
        self._keys: list[pa.Table] = []

    def check(self, rows: pa.Table) -> None:
        """Take in the next rows, and note each rule that they break."""
        import pandera.errors

        if set(_KEY) <= set(rows.column_names):
            self._keys.append(rows.select(_KEY))
        try:
            with warnings.catch_warnings():
                # pandera concatenates the failures of all rules in a way that pandas is going to change.
                warnings.simplefilter("ignore", FutureWarning)
                self._schema.validate(_to_pandas(rows), lazy=True)
        except pandera.errors.SchemaErrors as error:
            cases = error.failure_cases.fillna({"column": "the frame"})
            for (column, rule), group in cases.groupby(["column", "check"], dropna=False):
                of_rows = bool(group["index"].notna().any())
                self._note(str(column), str(rule), len(group), group["failure_case"].head(3), of_rows=of_rows)

    def failures(self) -> list[Failure]:
        """Every rule broken so far, copies of a key included."""
        copies = []
        if self._keys:
            counts = pa.concat_tables(self._keys).group_by(_KEY).aggregate([([], "count_all")])
            repeated = counts.filter(pc.greater(counts["count_all"], 1))
            if repeated.num_rows:
                rows = pc.sum(repeated["count_all"]).as_py()
                copies = [
                    Failure(key, "multiple_fields_uniqueness", rows, _listed(repeated[key].slice(0, 3).to_pylist()))
                    for key in _KEY
                ]
        return [*self._failures.values(), *copies][:_SHOWN_FAILURES]

    def _note(self, column: str, rule: str, rows: int, values: Iterable[object], *, of_rows: bool) -> None:
        known = self._failures.get((column, rule))
        if known is None:
            self._failures[column, rule] = Failure(column, rule, rows, _listed(values))
        elif of_rows:  # what is wrong with a whole column is wrong in every piece, and counts once
            self._failures[column, rule] = replace(known, rows=known.rows + rows)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _column(feature: Feature) -> "pa_pandas.Column":
    import pandera.pandas as pa_pandas

    low, high = _RANGES.get(feature.name, (None, None))
    checks = [
        check
        for check in (low is not None and pa_pandas.Check.ge(low), high is not None and pa_pandas.Check.le(high))
        if check
    ]
    # Store attributes come by a left join: a store without a row in features.csv has none for its early weeks.
    nullable = feature.name != LABEL and (feature.nullable or feature in STORE_EXTERNAL)
    return pa_pandas.Column(_pandas_type(feature), checks, nullable=nullable)


def _pandas_type(feature: Feature) -> str:
    return {"float64": "float64", "int32": "Int32", "int64": "Int64", "bool": "boolean", "string": "string"}[
        feature.type
    ]


def _to_pandas(frame: pa.Table) -> "pd.DataFrame":
    import pandas as pd

    nullable_types = {
        pa.int32(): pd.Int32Dtype(),
        pa.bool_(): pd.BooleanDtype(),
        pa.string(): pd.StringDtype(),
    }
    # int64 is not in the map: the entity keys are not nullable.
    features = {feature.name for feature in FRAME_FEATURES}
    result = frame.to_pandas(types_mapper=nullable_types.get)
    sizes = [field.name for field in frame.schema if field.type == pa.int64() and field.name in features]
    return result.astype(dict.fromkeys(sizes, "Int64"))
