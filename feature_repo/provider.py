"""What has to be put right for Feast's own ``materialize`` to fill the online store, from Python and from its CLI."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView
from feast.infra.passthrough_provider import PassthroughProvider
from feast.repo_config import RepoConfig
from feast.utils import _convert_arrow_to_proto

from feature_repo.features import TIMESTAMP


class WeeklyProvider(PassthroughProvider):
    """Feast's local provider, with two corrections.

    - Feast stamps on-demand features with the time of writing; here they carry the week that they were computed for, so
      that older ones do not replace newer ones. Of an on-demand view whose sources have different keys, it also
      computes rows in which a key is missing (a store without a department); these are left out.
    - The first ``materialize-incremental`` of a view starts its time to live before *now*. Where the data end before
      that, as sample data do, there would be nothing to write; it then starts that time before the end asked for.
    """

    def ingest_df(self, feature_view: Any, df: pd.DataFrame, field_mapping: dict[str, str] | None = None) -> None:
        if isinstance(feature_view, OnDemandFeatureView) and TIMESTAMP in df.columns:
            keys = [field.name for field in feature_view.entity_columns]
            write_computed(self, self.repo_config, feature_view, pa.Table.from_pandas(df.dropna(subset=keys)))
        else:
            super().ingest_df(feature_view, df, field_mapping)

    def materialize_single_feature_view(
        self,
        config: RepoConfig,
        feature_view: FeatureView | OnDemandFeatureView,
        start_date: datetime,
        end_date: datetime,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if start_date > end_date and isinstance(feature_view, FeatureView) and feature_view.ttl:
            start_date = end_date - feature_view.ttl
        super().materialize_single_feature_view(config, feature_view, start_date, end_date, *args, **kwargs)


def write_computed(
    provider: PassthroughProvider, config: RepoConfig, view: OnDemandFeatureView, table: pa.Table
) -> None:
    """Write on-demand features that are computed already.

    Args:
        table: the view's keys and features, and ``event_timestamp``, the time that each row is of.
    """
    keys = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    columns = table.select([*keys, *(field.name for field in view.features)]).combine_chunks()
    times: Sequence[datetime] = table[TIMESTAMP].cast(pa.timestamp("us", "UTC")).to_pylist()
    rows = _convert_arrow_to_proto(columns, view, keys)
    stamped: list[Any] = [(key, values, time, None) for (key, values, *_), time in zip(rows, times, strict=True)]
    provider.online_write_batch(config, view, stamped, progress=None)
