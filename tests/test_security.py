"""What someone can send to a part of the system who means it no good. The table is in docs/robustness.md."""

import gzip
import hashlib
import io
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import dagster as dg
import psycopg
import pytest
import yaml

from feature_repo import store as feature_store
from feature_repo.database import PostgresSettings
from feature_repo.paths import PROJECT_ROOT
from feature_repo.store import _fill, open_store
from forecast_assets.assets.features import sales_features, sales_windows, store_features
from forecast_assets.assets.model import candidate_model
from forecast_assets.assets.raw import raw_drop
from forecast_assets.assets.registry import feast_registry
from forecast_assets.assets.training_frame import training_frame
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import store_features_table
from forecast_assets.ingest.files import DropRefusedError, read_file
from forecast_assets.ingest.publish import publish
from forecast_assets.resources import Artifacts, FeastStore, LandingZone, Postgres, TrainJobs
from trainer.bundle import load_model, write_sidecar
from trainer.checkpoint import CheckpointStore
from trainer.errors import BundleError
from trainer.reference import referenced_bundle

sys.path.insert(0, str(PROJECT_ROOT / "tests" / "trainer"))
from trainer_frames import made_up_table

CANARY = "c4n4ry-b1rd-of-the-mine"
SQL = "'; DROP TABLE store_features; --"


class Owned:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.proof}'",)


def test_sql_in_a_value_is_stored_as_the_text_that_it_is(landing: Path, database: PostgresSettings) -> None:
    stores = landing / "stores.csv"
    stores.write_text(stores.read_text().replace(",B,", f",{SQL},"))

    for _ in range(2):  # created, then updated
        publish(store_features_table(read_drop(landing)), database, run_id=SQL)
        stores.write_text(stores.read_text().replace("DROP", "TRUNCATE"))

    with closing(adbc.connect(database.url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT store_type FROM store_features ORDER BY 1")
        types = [row[0] for row in cursor.fetchall()]
    assert SQL.replace("DROP", "TRUNCATE") in types
    assert SQL not in types


@pytest.mark.parametrize("name", ["../../elsewhere", "/etc", "..", "a\\b"])
def test_a_reference_cannot_lead_out_of_the_models_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "CHAMPION").write_text(name)
    with pytest.raises(ValueError, match=r"CHAMPION names '.*', which is no bundle: promote or train one again"):
        referenced_bundle(tmp_path, "CHAMPION")


@pytest.mark.parametrize(
    "place",
    [
        {"frame_path": "/elsewhere"},
        {"model_output_dir": "/elsewhere"},
        {"data_source": "direct"},
        {"feast_repo_path": "/elsewhere"},
        {"data_source": "feast_file", "feast_repo_path": "/elsewhere"},
    ],
    ids=" and ".join,
)
def test_a_spec_cannot_say_where_the_graph_reads_and_writes(tmp_path: Path, place: dict[str, str]) -> None:
    artifacts = Artifacts(path=str(tmp_path))
    artifacts.frames.publish(made_up_table(), feature_service="", feature_service_hash="")
    result = dg.materialize(
        [candidate_model],
        resources={"artifacts": artifacts, "train_jobs": TrainJobs(artifacts=artifacts)},
        run_config={"ops": {"candidate_model": {"config": {"spec": {**place, "num_epochs": 1}}}}},
        raise_on_error=False,
    )

    (failure,) = (event for event in result.all_events if event.is_step_failure)
    assert f"the spec sets {' and '.join(place)}, which the graph chooses" in str(failure.step_failure_data)
    assert not artifacts.jobs.exists()


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../../train.csv", content)
    return buffer.getvalue()


@pytest.mark.parametrize("pack", [gzip.compress, zipped], ids=["gzip", "zip"])
def test_a_small_file_that_unpacks_to_fill_the_memory_is_not_read_to_its_end(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "train.csv").write_bytes(pack(b"0" * 80 * 2**20))
    with pytest.raises(DropRefusedError, match=r"train\.csv unpacks to more than 67,108,864 bytes"):
        read_file(tmp_path, "train.csv")


def test_a_name_within_an_archive_is_no_place_on_the_disk(landing: Path) -> None:
    (landing / "train.csv").write_bytes(zipped((landing / "train.csv").read_bytes()))
    before = sorted(landing.parent.parent.rglob("*.csv"))
    read_drop(landing)
    assert sorted(landing.parent.parent.rglob("*.csv")) == before


def test_a_pickle_in_place_of_a_model_is_refused_and_not_run(tmp_path: Path) -> None:
    bundle, proof = tmp_path / "bundle", tmp_path / "owned"
    bundle.mkdir()
    planted = pickle.dumps(Owned(proof), protocol=2)  # another one is warned of, too
    (bundle / "best_model.pt").write_bytes(planted)
    (bundle / "extra.pkl").write_bytes(planted)
    files = {"best_model.pt": hashlib.sha256(planted).hexdigest()}
    write_sidecar(bundle, {"files": files})

    with pytest.raises(BundleError, match=r"best_model\.pt does not hold weights alone: it was not loaded"):
        load_model(bundle)
    assert not proof.exists()


def test_a_pickle_in_place_of_a_checkpoint_is_passed_over_and_not_run(tmp_path: Path) -> None:
    store, proof = (
        CheckpointStore(str(tmp_path / "bundle"), frame_hash="f", spec_hash="s", code_hash="c"),
        tmp_path / "owned",
    )
    planted = pickle.dumps(Owned(proof), protocol=2)
    store.folder.mkdir(parents=True, exist_ok=True)
    (store.folder / f"state-000001.{hashlib.sha256(planted).hexdigest()}.pt").write_bytes(planted)

    assert store.load() is None
    assert not proof.exists()


def test_a_tag_in_the_feature_stores_yaml_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: PostgresSettings
) -> None:
    proof = tmp_path / "owned"
    (tmp_path / "feature_store.yaml").write_text(f'project: !!python/object/apply:os.system ["touch {proof}"]\n')
    monkeypatch.setattr(feature_store, "REPO_PATH", tmp_path)
    with pytest.raises(yaml.constructor.ConstructorError), open_store(database):
        pass
    assert not proof.exists()


def test_a_variable_cannot_change_the_structure_of_the_yaml() -> None:
    filled = _fill({"a": "${PASSWORD}"}, {"PASSWORD": "x\nb: !!python/object/apply:os.system [id]"})
    assert filled == {"a": "x\nb: !!python/object/apply:os.system [id]"}


def test_a_secret_is_in_nothing_that_a_good_and_a_failing_run_write(
    landing: Path,
    tmp_path: Path,
    database: PostgresSettings,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", f"{CANARY}-db")
    monkeypatch.setenv("POSTGRES_HOST", database.host)
    monkeypatch.setenv("POSTGRES_DB", database.database)
    monkeypatch.setenv("POSTGRES_SSLMODE", "disable")
    monkeypatch.setenv("ALERT_WEBHOOK_URL", f"http://127.0.0.1:9/{CANARY}-hook")
    monkeypatch.setenv("SERVING_API_KEY", f"{CANARY}-key")
    (tmp_path / "home").mkdir()
    artifacts = Artifacts(path=str(tmp_path / "artifacts"))

    def run(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [raw_drop, sales_features, store_features, sales_windows, feast_registry, training_frame],
            instance=instance,
            resources={
                "landing_zone": LandingZone(path=str(landing)),
                "artifacts": artifacts,
                "postgres": Postgres(),
                "feast": FeastStore(postgres=Postgres()),
            },
            raise_on_error=False,
        )

    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as instance:
        assert run(instance).success
        monkeypatch.setenv("POSTGRES_DB", "nowhere")  # errors quote what they could not connect to
        assert not run(instance).success

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in "".join(capfd.readouterr())
    assert tables_that_hold(CANARY, database) == []


def tables_that_hold(text: str, settings: PostgresSettings) -> list[str]:
    """Tables of all schemas, the registry's among them, with the text in any of their values."""
    with psycopg.connect(replace(settings, password="").url) as connection:
        tables = connection.execute(
            "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables "
            "WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        assert len(tables) > 5
        # bytea shows as hexadecimal.
        patterns = [f"%{text}%", f"%{text.encode().hex()}%"]
        return [
            name
            for (name,) in tables
            if connection.execute(f"SELECT 1 FROM {name} t WHERE t::text LIKE ANY (%s) LIMIT 1", [patterns]).fetchone()
        ]
