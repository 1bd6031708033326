"""On Ray the training frame is the frame of one process, and materialization fills the online store as ever."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import psycopg
import pyarrow as pa
import pytest

from feature_repo.database import PostgresSettings
from feature_repo.features import TRAINING_SERVICE
from feature_repo.ray_cluster import connected
from feature_repo.ray_retrieval import RayRetrieval
from feature_repo.store import apply_definitions, open_store
from forecast_assets.assets.training_frame import training_frame
from forecast_assets.content_hash import content_hash
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.resources import Artifacts, FeastStore, Postgres
from forecast_assets.sql import statement

ray = pytest.importorskip("ray", reason="Ray is an extra: pip install '.[ray]'")

# Ray's own start leaves file handles and sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray", "ignore::DeprecationWarning:ray"),
]
TASKS = 4  # more than there are CPUs: the last ones start when the first is done


@pytest.fixture(scope="module")
def tables(module_database: PostgresSettings, small_drop: Path) -> PostgresSettings:
    """The feature tables of the small drop, and a registry that knows them."""
    drop = read_drop(small_drop)
    for table in (sales_features_table(drop), store_features_table(drop)):
        publish(table, module_database, run_id="")
    with open_store(module_database) as store:
        apply_definitions(store)
    return module_database


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connected("local", num_cpus=2):
        yield


def in_one_process(settings: PostgresSettings) -> pa.Table:
    with open_store(settings) as store:
        service = store.get_feature_service(TRAINING_SERVICE)
        return store.get_historical_features(statement("labelled_rows"), service).to_arrow()


def test_an_address_that_is_none_or_that_nobody_answers_at_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Where Ray notes the last cluster of this machine, which may be long gone.
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ValueError, match="FEAST_RAY_ADDRESS is 'yes', which is not a Ray address"), connected("yes"):
        pass
    with pytest.raises(ConnectionError, match="no Ray cluster answers at FEAST_RAY_ADDRESS=auto"), connected("auto"):
        pass


@pytest.mark.usefixtures("cluster")
def test_a_load_during_the_retrieval_leaves_it_the_frame_of_one_process_to_the_bit(
    tables: PostgresSettings, tmp_path: Path
) -> None:
    before = in_one_process(tables)
    batches = RayRetrieval(address="local", tasks=TASKS).batches(
        tables, statement("labelled_rows"), TRAINING_SERVICE, tmp_path
    )
    first = next(batches)
    with psycopg.connect(tables.url) as connection:
        connection.execute("UPDATE sales_features SET sales_lag_1 = -sales_lag_1")
        connection.execute("UPDATE store_features SET temperature = temperature + 1")
    assert content_hash(pa.Table.from_batches([first, *batches])) == content_hash(before)
    assert not list(tmp_path.iterdir())
    assert content_hash(in_one_process(tables)) != content_hash(before)


@pytest.mark.usefixtures("cluster")
def test_a_range_that_cannot_be_retrieved_is_named_and_nothing_is_left(
    tables: PostgresSettings, tmp_path: Path
) -> None:
    query = f"SELECT store, dept, event_timestamp, 1 / (store - store) AS n FROM ({statement('labelled_rows')}) q"
    batches = RayRetrieval(address="local", tasks=2).batches(tables, query, TRAINING_SERVICE, tmp_path)
    with pytest.raises(RuntimeError, match=r"rows 0 to 2,108 could not be retrieved .* 3 times: .*division by zero"):
        next(batches)
    assert not list(tmp_path.iterdir())


# Raised by Dagster about its own resource within a resource.
@pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run is deprecated:DeprecationWarning")
@pytest.mark.usefixtures("cluster")
def test_the_asset_publishes_the_same_frame_with_ray_as_without(
    tables: PostgresSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_HOST", tables.host)
    monkeypatch.setenv("POSTGRES_DB", tables.database)
    monkeypatch.setenv("POSTGRES_SSLMODE", "disable")
    postgres = Postgres()
    artifacts = {address: Artifacts(path=str(tmp_path / str(address))) for address in (None, "local")}
    for address, folder in artifacts.items():
        feast = FeastStore(postgres=postgres, ray_address=address)
        dg.materialize([training_frame], resources={"postgres": postgres, "feast": feast, "artifacts": folder})
    alone, on_ray = (folder.frames.current() for folder in artifacts.values())
    assert alone is not None
    assert on_ray is not None
    assert on_ray[1] == alone[1]


@pytest.mark.usefixtures("cluster")
def test_materialization_on_ray_writes_the_offline_values(
    tables: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(tables.url) as connection:
        rows = connection.execute(
            "SELECT DISTINCT ON (store) store, event_timestamp, temperature, cpi, markdown1, store_type, store_size "
            "FROM store_features ORDER BY store, event_timestamp DESC"
        ).fetchall()
    monkeypatch.setenv("FEAST_BATCH_ENGINE", "feature_repo.ray_engine.RayMaterializationEngine")
    names = ["temperature", "cpi", "markdown1", "store_type", "store_size"]
    with open_store(tables) as store:
        last = max(row[1] for row in rows)
        store.materialize(last - timedelta(days=30), last, feature_views=["store_external_features"])
        references = [f"store_external_features:{name}" for name in names]
        online = store.get_online_features(references, [{"store": row[0]} for row in rows]).to_dict()
    assert [list(values) for values in zip(*(online[name] for name in names), strict=True)] == [
        list(row[2:]) for row in rows
    ]
    assert ray.is_initialized()  # the cluster was there before the store was opened


@pytest.mark.usefixtures("cluster")
def test_a_write_that_fails_on_the_cluster_fails_the_materialization(
    tables: PostgresSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEAST_BATCH_ENGINE", "feature_repo.ray_engine.RayMaterializationEngine")
    with psycopg.connect(tables.url) as connection:
        (last,) = connection.execute("SELECT max(event_timestamp) FROM store_features").fetchone() or (None,)
        schema = "feast_online"
        connection.execute(f"ALTER SCHEMA {schema} RENAME TO away")
    with open_store(tables) as store, pytest.raises(Exception, match=schema):
        store.materialize(last - timedelta(days=30), last, feature_views=["store_external_features"])
