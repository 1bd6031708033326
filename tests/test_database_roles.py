"""The roles of `deploy/base/postgres` are enough for trainer and service, and for no more: on a real PostgreSQL."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from benchmarks.full_size import live_keys
from deploy.checks.render import DEPLOY
from feature_repo.database import PostgresSettings
from feature_repo.features import INFERENCE_SERVICE, TRAINING_SERVICE
from feature_repo.materialize import materialize
from feature_repo.online_reader import OnlineReader
from feature_repo.store import apply_definitions, open_store
from forecast_assets.ingest.drop import read_drop
from forecast_assets.ingest.feature_tables import sales_features_table, sales_windows_table, store_features_table
from forecast_assets.ingest.publish import publish
from forecast_assets.sql import statement

pytestmark = pytest.mark.filterwarnings("ignore:On demand feature view is an experimental feature:RuntimeWarning")

OWNER, TRAINER, SERVICE = "forecast", "trainer", "service"


@pytest.fixture(scope="module")
def owned(module_database: PostgresSettings, small_drop: Path) -> Iterator[PostgresSettings]:
    """A database set up by the CloudNativePG cluster's statements, and filled by its owner."""
    documents = yaml.safe_load_all((DEPLOY / "base/postgres/cluster.yaml").read_text())
    spec = next(document for document in documents if document["kind"] == "Cluster")["spec"]
    managed = {role["name"]: role["inRoles"] for role in spec["managed"]["roles"] if "inRoles" in role}
    with psycopg.connect(module_database.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {OWNER} LOGIN")
        connection.execute(f"ALTER DATABASE {module_database.database} OWNER TO {OWNER}")
        for statement in spec["bootstrap"]["initdb"]["postInitApplicationSQL"]:
            connection.execute(statement)
        for role, groups in managed.items():
            connection.execute(f"CREATE ROLE {role} LOGIN IN ROLE {', '.join(groups)}")
    owner = replace(module_database, user=OWNER)
    drop = read_drop(small_drop)
    for table in (sales_features_table(drop), store_features_table(drop), sales_windows_table(drop)):
        publish(table, owner, run_id="")
    _, week = live_keys(owner)
    with open_store(owner) as store, contextlib.redirect_stdout(io.StringIO()):
        apply_definitions(store)
        materialize(store, week)
    yield owner
    with psycopg.connect(module_database.url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {module_database.database} OWNER TO {module_database.user}")
        for role in (*managed, *{group for groups in managed.values() for group in groups}, OWNER):
            connection.execute(f"DROP OWNED BY {role} CASCADE")
            connection.execute(f"DROP ROLE {role}")


def test_the_service_reads_online_features_and_no_others(owned: PostgresSettings) -> None:
    keys, _ = live_keys(owned)
    service = replace(owned, user=SERVICE)
    with open_store(service) as store:
        columns = {name: [key[name] for key in keys] for name in keys[0]}
        assert OnlineReader(store, INFERENCE_SERVICE).read(columns).unknown == []
    with psycopg.connect(service.url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM sales_features")


def test_the_trainer_reads_features_of_the_past_and_none_online(owned: PostgresSettings) -> None:
    trainer = replace(owned, user=TRAINER)
    rows = "SELECT store, dept, date AS event_timestamp FROM sales_features WHERE weekly_sales IS NOT NULL LIMIT 50"
    with open_store(trainer) as store:
        job = store.get_historical_features(entity_df=rows, features=store.get_feature_service(TRAINING_SERVICE))
        assert job.to_arrow().num_rows == 50
    with psycopg.connect(trainer.url) as connection:
        (table,) = (
            connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'feast_online'").fetchone() or ()
        )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(f"SELECT * FROM feast_online.{table}")


@pytest.mark.parametrize("role", [TRAINER, SERVICE])
def test_readers_write_and_create_nothing(owned: PostgresSettings, role: str) -> None:
    with psycopg.connect(owned.url) as connection:
        tables = connection.execute(
            "SELECT schemaname || '.' || tablename FROM pg_tables WHERE tableowner = %s", (OWNER,)
        )
        names = [name for (name,) in tables]
        assert len(names) > 10
        for name in names:
            for right in ("INSERT", "UPDATE", "DELETE", "TRUNCATE"):
                held = connection.execute("SELECT has_table_privilege(%s, %s, %s)", (role, name, right)).fetchone()
                assert held == (False,), (name, right)
        for schema in ("public", "feast_registry", "feast_online"):
            held = connection.execute("SELECT has_schema_privilege(%s, %s, 'CREATE')", (role, schema)).fetchone()
            assert held == (False,), schema


def test_the_exporters_questions_are_answered_and_give_the_metrics_that_alerts_read(owned: PostgresSettings) -> None:
    text = yaml.safe_load((DEPLOY / "base/postgres/queries.yaml").read_text())["data"]["queries"]
    with psycopg.connect(owned.url) as connection:
        connection.execute(statement("create_weekly_forecasts").encode())
        connection.execute(statement("create_forecast_accuracy").encode())
        connection.execute("INSERT INTO weekly_forecasts VALUES (1, 1, '2012-11-02', 10, 'v')")
        for week, wape in enumerate((0.1, 0.1, 0.3, 0.3, 0.3, 0.3)):
            connection.execute(
                "INSERT INTO forecast_accuracy VALUES ('week', %s, 1, 0, 0, 0, %s, 0, 0, 0)",
                [f"2012-10-{week:02}", wape],
            )
    rules = (DEPLOY / "base/observability/rules.yaml").read_text()
    answers: dict[str, Any] = {}
    with psycopg.connect(replace(owned, user="postgres").url) as connection:
        connection.execute("SET ROLE pg_monitor")
        for name, question in yaml.safe_load(text).items():
            cursor = connection.execute(question["query"].encode())
            columns = [column.name for column in cursor.description or ()]
            assert columns == [name for metric in question["metrics"] for name in metric]
            answers |= dict(zip((f"cnpg_{name}_{column}" for column in columns), cursor.fetchone() or (), strict=True))
    assert all(metric in rules for metric in answers)
    assert 0 <= answers["cnpg_forecast_age_seconds"] < 60
    assert answers["cnpg_forecast_accuracy_last_weeks_wape"] == pytest.approx(0.3)
    assert answers["cnpg_forecast_accuracy_wape"] == pytest.approx(7 / 30)
