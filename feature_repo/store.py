"""Opening the feature store on the server that this process uses."""

import os
import string
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import yaml

from feature_repo import ray_cluster
from feature_repo.database import PostgresSettings, connect_settings

if TYPE_CHECKING:
    from feast import FeatureStore

REGISTRY_SCHEMA = "feast_registry"
REPO_PATH = Path(__file__).parent


@contextmanager
def open_store(settings: PostgresSettings | None = None) -> Iterator["FeatureStore"]:
    """The feature store of ``feature_store.yaml``, its ``${…}`` filled in for ``settings`` (default: this process's).

    The registry lives in a schema of its own, which is created if need be. On leaving, the connections that Feast
    keeps are closed: the registry's pool, the online store's and, if materialization is on Ray, the cluster's.
    """
    # Feast's anonymous usage reports are off: a retailer's network is no place for them.
    os.environ.setdefault("FEAST_USAGE", "False")
    from feast import FeatureStore, RepoConfig

    settings = settings or connect_settings()
    with psycopg.connect(settings.url) as connection:
        # IF NOT EXISTS needs the right to create even where the schema exists; readers do not have it.
        if connection.execute("SELECT to_regnamespace(%s)", (REGISTRY_SCHEMA,)).fetchone() == (None,):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {REGISTRY_SCHEMA}")
    text = (REPO_PATH / "feature_store.yaml").read_text()
    config = _fill(yaml.safe_load(text), _variables(settings))
    on_ray = config["batch_engine"] != "local"
    if on_ray:
        config["batch_engine"] = {
            "type": config["batch_engine"],
            "ray_address": ray_cluster.configured_address() or "local",
        }
    ray_is_ours = on_ray and not ray_cluster.is_connected()
    store = FeatureStore(config=RepoConfig(**config, repo_path=REPO_PATH))
    try:
        yield store
    finally:
        registry: Any = store.registry
        registry.write_engine.dispose()
        registry.read_engine.dispose()
        online_store: Any = store._get_provider().online_store
        if hasattr(online_store, "close_connections"):  # Feast's own stores, such as that for Redis alone, lack it
            online_store.close_connections()
        if ray_is_ours:
            ray_cluster.disconnect()


def apply_definitions(store: "FeatureStore") -> None:
    """Make the registry hold the definitions of this folder, and no other feature views and services of the project.

    As by ``feast apply``, what is not defined here any more is removed, with its table in the online store: last, so
    that where the definitions are refused, what is served stays. A call that was cut off is made good by the next.
    """
    from feature_repo.definitions import ENTITIES, FEATURE_SERVICES, FEATURE_VIEWS

    defined = {each.name for each in [*FEATURE_VIEWS, *FEATURE_SERVICES]}
    # Without their functions, which may be gone from the code.
    registered: list[Any] = store.registry.list_all_feature_views(store.project, skip_udf=True)
    views = [each for each in registered if each.name not in defined]
    services = [each for each in store.list_feature_services() if each.name not in defined]
    with warnings.catch_warnings():
        # Of the offline retrieval's speed, which is measured here.
        warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
        store.apply([*ENTITIES, *FEATURE_VIEWS, *FEATURE_SERVICES])
    if views or services:
        # The tables first, for a later call cannot find those of views that are forgotten. Feast forgets first, and
        # leaves the tables of on-demand views, which have one if they are stored.
        tables = [each for each in views if getattr(each, "write_to_online_store", True)]
        store._get_provider().update_infra(store.project, tables, [], [], [], partial=False)
        store.apply([], objects_to_delete=[*views, *services], partial=False)


def _variables(settings: PostgresSettings) -> dict[str, str]:
    return {
        "FEAST_REGISTRY_URL": settings.sqlalchemy_url(schema=REGISTRY_SCHEMA),
        "POSTGRES_HOST": settings.host,
        "POSTGRES_PORT": str(settings.port),
        "POSTGRES_DB": settings.database,
        "POSTGRES_USER": settings.user,
        "POSTGRES_PASSWORD": settings.password,
        "POSTGRES_SSLMODE": settings.sslmode,
        "FEAST_BATCH_ENGINE": os.environ.get("FEAST_BATCH_ENGINE", "local"),
        "FEAST_REDIS_URL": os.environ.get("FEAST_REDIS_URL", ""),
    }


def _fill(node: Any, variables: dict[str, str]) -> Any:
    """Substitute after parsing, so that no value can change the structure of the document."""
    if isinstance(node, dict):
        return {key: _fill(value, variables) for key, value in node.items()}
    if isinstance(node, str):
        return string.Template(node).substitute(variables)
    return node
