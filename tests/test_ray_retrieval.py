"""A retrieval over Ray is the retrieval of one process, in chunks."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.database import PostgresSettings
from feature_repo.definitions import ENTITIES, FEATURE_SERVICES, FEATURE_VIEWS
from feature_repo.features import TRAINING_SERVICE
from feature_repo.ray_retrieval import RayRetrieval
from feature_repo.store import open_store
from forecast_assets.content_hash import content_hash
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.sql import statement

pytest.importorskip("ray", reason="Ray is an extra: pip install '.[ray]'")


# Ray's own start leaves file handles and sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning:ray")
def test_chunks_of_a_cluster_are_the_frame_of_one_process_to_the_bit(
    module_database: PostgresSettings, small_drop: Path, tmp_path: Path
) -> None:
    drop = read_drop(small_drop)
    for table in (sales_features_table(drop), store_features_table(drop)):
        publish(table, module_database, run_id="")
    query = statement("labelled_rows")
    with open_store(module_database) as store:
        store.apply([*ENTITIES, *FEATURE_VIEWS, *FEATURE_SERVICES])
        service = store.get_feature_service(TRAINING_SERVICE)
        whole = store.get_historical_features(query, service).to_arrow()
    local = RayRetrieval(tasks=2, options={"num_cpus": 2, "include_dashboard": False})
    chunks = local.retrieve(module_database, query, TRAINING_SERVICE, tmp_path / "chunks")
    assert [path.name for path in chunks] == ["chunk-00000.parquet", "chunk-00001.parquet"]
    assert sorted(chunks) == sorted((tmp_path / "chunks").iterdir())
    assert content_hash(pa.concat_tables(map(pq.read_table, chunks))) == content_hash(whole)
