"""A training frame straight from a drop, for benchmarks of the trainer: as the graph makes it, without a database."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from feature_repo.features import ENTITY_KEYS, LABEL, TIMESTAMP, TRAINING_SERVICE
from forecast_assets.frame_store import FrameStore
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table
from forecast_assets.sample_data import write_sample_data


def drop_frame(landing: Path | None, scratch: Path, size: float = 1.0) -> pa.Table:
    """All labelled rows with their stored features, by key and week; the sample data's where `landing` is None.

    The on-demand features, which no default model reads, are not in it.
    """
    if landing is None:
        landing = scratch / "landing"
        write_sample_data(landing, size=size)
    drop = read_drop(landing)
    sales = sales_features_table(drop).rows
    stores = store_features_table(drop).rows.drop_columns([TIMESTAMP])
    joined = sales.filter(pc.is_valid(sales[LABEL])).join(stores, ["store", "date"], join_type="left outer")
    return joined.drop_columns(["date"]).sort_by([(name, "ascending") for name in (*ENTITY_KEYS, TIMESTAMP)])


def publish_frame(frame: pa.Table, folder: Path) -> Path:
    """Publish `frame` below `folder` as the graph does; returns what a spec's frame_path must be."""
    store = FrameStore(folder)
    store.publish(frame, feature_service=TRAINING_SERVICE, feature_service_hash="")
    current = store.current()
    assert current is not None  # noqa: S101 - just published
    return current[0]
