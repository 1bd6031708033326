"""A trainer that has Feast at hand retrieves its frame for itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

from feature_repo.database import PostgresSettings
from feature_repo.definitions import ENTITIES, FEATURE_SERVICES, FEATURE_VIEWS
from feature_repo.export import write_frame
from feature_repo.features import LABEL, TIMESTAMP, TRAINING_SERVICE
from feature_repo.store import REPO_PATH, open_store
from forecast_assets.content_hash import content_hash
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.sql import statement
from trainer.frame import read_frame


def export(source: str, repo: Path, frame: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "feature_repo.export", "--source", source, "--repo", str(repo)]
    command += ["--frame-path", str(frame), "--chunk-size", "700"]
    settings = {**os.environ, "FEAST_USAGE": "False", **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=200)


def variables(settings: PostgresSettings) -> dict[str, str]:
    fields = {"HOST": settings.host, "PORT": settings.port, "DB": settings.database, "USER": settings.user}
    return {f"POSTGRES_{name}": str(value) for name, value in (fields | {"PASSWORD": settings.password}).items()} | {
        "POSTGRES_SSLMODE": settings.sslmode
    }


def test_frame_over_ray_is_the_retrieval_of_one_process_in_chunks_the_trainer_reads(
    module_database: PostgresSettings, small_drop: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install '.[ray]'")
    drop = read_drop(small_drop)
    for table in (sales_features_table(drop), store_features_table(drop)):
        publish(table, module_database, run_id="")
    with open_store(module_database) as store:
        store.apply([*ENTITIES, *FEATURE_VIEWS, *FEATURE_SERVICES])
        service = store.get_feature_service(TRAINING_SERVICE)
        whole = store.get_historical_features(statement("labelled_rows"), service).to_arrow()
    finished = export("postgres_ray", REPO_PATH, tmp_path / "frame", variables(module_database))
    assert finished.returncode == 0, finished.stderr
    assert content_hash(read_frame(tmp_path / "frame").table) == content_hash(whole)
    manifest = json.loads((tmp_path / "frame" / "manifest.json").read_text())
    assert {chunk["rows"] for chunk in manifest["chunks"][:-1]} == {700}
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == ["frame"]


def test_database_that_does_not_answer_is_worth_another_try(tmp_path: Path) -> None:
    nowhere = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1", "POSTGRES_DB": "d", "POSTGRES_USER": "u"}
    finished = export("postgres_ray", REPO_PATH, tmp_path / "frame", {**nowhere, "POSTGRES_PASSWORD": "p"})
    assert finished.returncode == 75, finished.stderr
    assert "Connection refused" in finished.stderr
    assert not (tmp_path / "frame").exists()


def test_frame_of_a_file_store_holds_its_labelled_rows(small_drop: Path, tmp_path: Path) -> None:
    sales = sales_features_table(read_drop(small_drop)).rows
    pq.write_table(sales, tmp_path / "sales.parquet")
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(
        f"project: files\nprovider: local\nregistry: {tmp_path}/registry.db\noffline_store:\n  type: dask\n"
        "entity_key_serialization_version: 3\n"
    )
    keys = [Entity(name=name, join_keys=[name], value_type=ValueType.INT64) for name in ("store", "dept")]
    view = FeatureView(
        name="sales",
        entities=keys,
        schema=[Field(name=name, dtype=Float64) for name in (LABEL, "sales_lag_1")],
        source=FileSource(path=str(tmp_path / "sales.parquet"), timestamp_field=TIMESTAMP),
    )
    FeatureStore(repo_path=str(repo)).apply([*keys, view, FeatureService(name=TRAINING_SERVICE, features=[view])])
    finished = export("feast_file", repo, tmp_path / "frame", {})
    assert finished.returncode == 0, finished.stderr
    frame = read_frame(tmp_path / "frame").table
    labelled = sales.filter(pc.is_valid(sales[LABEL]))
    order = [(name, "ascending") for name in (TIMESTAMP, "store", "dept")]
    expected = labelled.sort_by(order).select(["store", "dept", LABEL, "sales_lag_1"])
    assert frame.sort_by(order).select(expected.column_names).to_pylist() == expected.to_pylist()


def test_chunks_do_not_depend_on_how_the_rows_came(tmp_path: Path) -> None:
    rows = pa.table({"x": range(1000)})
    for name, size in (("one", 1000), ("many", 7)):
        write_frame(tmp_path / name, iter(rows.to_batches(max_chunksize=size)), 300)
    one, many = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "many"))
    assert (
        [chunk["rows"] for chunk in one["chunks"]] == [chunk["rows"] for chunk in many["chunks"]] == [300] * 3 + [100]
    )
    with pytest.raises(ValueError, match="no labelled rows"):
        write_frame(tmp_path / "none", iter(()), 300)
