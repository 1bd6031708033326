"""Feast's Ray engine with a materialization that writes every row or fails.

Feast's own drops rows that are older than a view's ttl today, so that of history nothing arrives, and only logs a
write that failed. Here the newest row per key is read as for the local engine, and tasks on the cluster write slices.
"""

from typing import Any, Literal

import pyarrow as pa
import ray
from feast.infra.common.materialization_job import MaterializationJob, MaterializationJobStatus, MaterializationTask
from feast.infra.common.serde import SerializedArtifacts
from feast.infra.compute_engines.ray.compute import RayComputeEngine
from feast.infra.compute_engines.ray.config import RayComputeEngineConfig
from feast.infra.compute_engines.ray.job import RayMaterializationJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import _convert_arrow_to_proto, _get_column_names, _run_pyarrow_field_mapping

from feature_repo.ray_retrieval import RETRIES


class RayMaterializationEngineConfig(RayComputeEngineConfig):
    """The options of Feast's Ray engine under this engine's name."""

    type: Literal["feature_repo.ray_engine.RayMaterializationEngine"] = (
        "feature_repo.ray_engine.RayMaterializationEngine"  # type: ignore[assignment]
    )


class RayMaterializationEngine(RayComputeEngine):
    """Writes to the online store from tasks on a Ray cluster, whose workers need this package and the stores."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, from_offline_store: bool = False, **kwargs: Any
    ) -> MaterializationJob:
        del from_offline_store, kwargs
        view = task.feature_view
        source: Any = view.batch_source
        entities = [registry.get_entity(name, task.project) for name in view.entities]
        keys, features, timestamp, created = _get_column_names(view, entities)
        rows = self.offline_store.pull_latest_from_table_or_query(
            self.repo_config, source, keys, features, timestamp, created, task.start_time, task.end_time
        ).to_arrow()
        rows = _run_pyarrow_field_mapping(rows, source.field_mapping)
        artifacts = SerializedArtifacts.serialize(view, self.repo_config)
        size = max(1, -(-rows.num_rows // max(1, int(ray.cluster_resources().get("CPU", 1)))))
        write = ray.remote(max_retries=RETRIES, retry_exceptions=True)(_write)
        ray.get([write.remote(artifacts, rows.slice(start, size)) for start in range(0, rows.num_rows, size)])
        return RayMaterializationJob(f"{view.name}-{task.end_time}", MaterializationJobStatus.SUCCEEDED)


def _write(artifacts: SerializedArtifacts, rows: pa.Table) -> None:
    """Runs on a worker. Writing the same rows again changes nothing, so a repeated task does no harm."""
    view, online_store, _, config = artifacts.unserialize()
    try:
        key_types = {entity.name: entity.dtype.to_value_type() for entity in view.entity_columns}
        online_store.online_write_batch(config, view, _convert_arrow_to_proto(rows, view, key_types), progress=None)
    finally:
        if hasattr(online_store, "close_connections"):  # Feast's own stores lack it
            online_store.close_connections()
