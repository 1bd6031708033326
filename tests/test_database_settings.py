"""Which server is used, and how its address and password reach each library."""

from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import make_url

from feature_repo import embedded_postgres
from feature_repo.database import NOTICING, PostgresSettings, connect_settings, main
from feature_repo.paths import data_dir

anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)


@given(user=anything, password=anything, database=anything)
def test_user_password_and_database_reach_every_library_as_they_are(user: str, password: str, database: str) -> None:
    settings = PostgresSettings(host="/tmp/a b", port=5433, user=user, password=password, database=database)  # noqa: S108
    libpq = conninfo_to_dict(settings.url)
    assert (libpq["user"], libpq["password"], libpq["dbname"]) == (user, password, database)
    assert (libpq["host"], str(libpq["port"]), libpq["sslmode"]) == ("/tmp/a b", "5433", "prefer")  # noqa: S108
    url = make_url(settings.sqlalchemy_url(schema="registry"))
    assert (url.drivername, url.username, url.password, url.database) == (
        "postgresql+psycopg",
        user,
        password,
        database,
    )
    assert dict(url.query) == {
        "host": "/tmp/a b",  # noqa: S108
        "port": "5433",
        "sslmode": "prefer",
        **{name: str(value) for name, value in NOTICING.items()},
        "options": "-ctimezone=UTC -csearch_path=registry",
    }


@given(st.text("ab'\"\\\n%", min_size=1))
def test_the_password_is_in_nothing_that_is_printed(ending: str) -> None:
    settings = PostgresSettings(host="db", password="hunter2" + ending)
    assert "hunter2" not in f"{settings!r} {settings!s} {settings.label}"


def test_a_password_that_is_not_set_is_not_in_the_address() -> None:
    assert "password" not in conninfo_to_dict(PostgresSettings(host="db").url)


@pytest.mark.parametrize("port", ["abc", "-1", "54 32", "5432.0", "0x10", "²", "tcp://10.0.0.1:5432"])
def test_a_port_that_is_no_number_is_named_with_its_variable(port: str) -> None:
    with pytest.raises(ValueError, match=r"^POSTGRES_PORT is .* which is not a port number: set it to") as refusal:
        PostgresSettings.from_environment({"POSTGRES_HOST": "db", "POSTGRES_PORT": port})
    assert repr(port) in str(refusal.value)


def test_the_prompt_says_which_setting_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without a psql
    for name, value in {"POSTGRES_PORT": "abc", "POSTGRES_SSLMODE": "require"}.items():
        with monkeypatch.context() as only:
            only.setenv(name, value)
            assert main() == 1
        assert capfd.readouterr().err.startswith(f"{name} is {value!r}, ")


def test_the_prompt_s_command_line_is_without_the_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    psql = tmp_path / "psql"
    psql.write_text(f'#!/bin/sh\nprintf "%s" "$@" "$PGPASSWORD" > "{tmp_path}/said"\n')
    psql.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("POSTGRES_PASSWORD", "hunter2")

    assert main() == 0
    address = (tmp_path / "said").read_text().removesuffix("hunter2")
    assert address.startswith("postgresql://postgres@/")
    assert "hunter2" not in address


def test_variables_that_are_not_set_or_empty_leave_the_defaults() -> None:
    assert PostgresSettings.from_environment({"PATH": "/bin", "POSTGRES_HOST": ""}) is None
    assert PostgresSettings.from_environment({"POSTGRES_PASSWORD": "x", "POSTGRES_PORT": ""}) == PostgresSettings(
        host="localhost",
        password="x",  # noqa: S106 - not a real one
    )


def test_a_server_in_the_environment_is_used_and_none_is_started(
    monkeypatch: pytest.MonkeyPatch, database: PostgresSettings
) -> None:
    monkeypatch.setenv("POSTGRES_HOST", database.host)
    monkeypatch.setenv("POSTGRES_DB", database.database)
    monkeypatch.setenv("POSTGRES_SSLMODE", "disable")
    with psycopg.connect(connect_settings().url) as connection:
        assert connection.execute("SELECT current_database()").fetchone() == (database.database,)
    assert not data_dir().exists()


def test_without_one_the_embedded_server_of_the_data_folder_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[Path] = []

    def note(root: Path) -> Path:
        started.append(root)
        return tmp_path

    monkeypatch.setattr(embedded_postgres, "ensure_running", note)
    assert connect_settings() == PostgresSettings(host=str(tmp_path), sslmode="disable")
    assert started == [data_dir() / "postgres"]


def test_every_session_is_in_utc(database: PostgresSettings) -> None:
    with psycopg.connect(database.url) as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)
        connection.execute("ALTER ROLE postgres SET timezone = 'America/Chicago'")
        connection.commit()
        with psycopg.connect(database.url) as later:
            assert later.execute("SHOW timezone").fetchone() == ("UTC",)
        connection.execute("ALTER ROLE postgres RESET timezone")
