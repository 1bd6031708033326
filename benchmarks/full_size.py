"""What the benchmarks of the feature store share: the feature tables at full size on a PostgreSQL of their own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import yaml
from feast import FeatureStore, RepoConfig

from feature_repo import embedded_postgres
from feature_repo.database import PostgresSettings
from feature_repo.definitions import TTL
from feature_repo.store import REGISTRY_SCHEMA, REPO_PATH, _fill, _variables
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, sales_windows_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.sample_data import write_sample_data
from forecast_assets.sql import statement


@contextmanager
def feature_tables(size: float = 1.0) -> Iterator[PostgresSettings]:
    """A server in a temporary folder that holds the sample data's feature tables."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)  # where the server has to run as 'nobody', that account must be able to enter
        write_sample_data(folder / "landing", size=size)
        drop = read_drop(folder / "landing")
        settings = PostgresSettings.embedded(folder / "postgres")
        try:
            for table in (sales_features_table(drop), store_features_table(drop), sales_windows_table(drop)):
                publish(table, settings, run_id="")
            yield settings
        finally:
            embedded_postgres.stop(folder / "postgres")


def live_keys(settings: PostgresSettings) -> tuple[list[dict[str, int]], datetime]:
    """The entity rows of all live series, and the coming week."""
    with psycopg.connect(settings.url) as connection:
        rows = connection.execute(statement("coming_week_rows")).fetchall()
    week = datetime.combine(rows[0][2], datetime.min.time(), tzinfo=UTC)
    return [{"store": store, "dept": dept} for store, dept, _ in rows], week


def stock_store(settings: PostgresSettings, *, offline: bool = False, **online_store: Any) -> FeatureStore:
    """The same with Feast's own online store, and offline store if wanted, in a registry and a schema of its own."""
    schema = f"stock_{REGISTRY_SCHEMA}"
    with psycopg.connect(settings.url) as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    variables = _variables(settings) | {"FEAST_REGISTRY_URL": settings.sqlalchemy_url(schema=schema)}
    config = _fill(yaml.safe_load((REPO_PATH / "feature_store.yaml").read_text()), variables)
    config["online_store"].pop("redis_url", None)
    config["provider"] = "local"
    if offline:
        config["offline_store"]["type"] = "postgres"
    config["online_store"] |= {"type": "postgres", "db_schema": "stock_online", **online_store}
    return FeatureStore(config=RepoConfig(**config, repo_path=REPO_PATH))


def ttl_range(week: datetime) -> tuple[datetime, datetime]:
    """What is materialized for the coming week."""
    return week - TTL + timedelta(seconds=1), week
