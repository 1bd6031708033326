"""Which PostgreSQL server this process talks to, and how each library wants to be told."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, urlencode

from feature_repo import embedded_postgres
from feature_repo.paths import data_dir
from feature_repo.postgres_server import DATABASE, SUPERUSER, EmbeddedPostgresError, binaries

VARIABLES = (
    "POSTGRES_HOST",
    "POSTGRES_PORT",
    "POSTGRES_DB",
    "POSTGRES_USER",
    "POSTGRES_PASSWORD",
    "POSTGRES_SSLMODE",
)

# What libpq is told, so that a server whose machine vanished is noticed within half a minute: by who connects, by who
# waits for an answer (keepalives), and by who sends (milliseconds without an acknowledgement; also of a server that is
# there and reads nothing). The system's own limits are minutes to hours. On unix sockets only the first means anything.
NOTICING: Mapping[str, int] = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSettings:
    """Address and credentials of one PostgreSQL database. ``host`` may be the folder of a unix socket."""

    host: str
    port: int = 5432
    database: str = DATABASE
    user: str = SUPERUSER
    password: str = field(default="", repr=False)
    sslmode: str = "prefer"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "PostgresSettings | None":
        """The server named by ``POSTGRES_*``, or None where none of these variables is set.

        Raises:
            ValueError: ``POSTGRES_PORT`` is not a number.
        """
        values = {name: environment[name] for name in VARIABLES if environment.get(name)}
        if not values:
            return None
        port = values.get("POSTGRES_PORT", "5432")
        if not port.isdecimal():
            raise ValueError(f"POSTGRES_PORT is {port!r}, which is not a port number: set it to a number such as 5432")
        return cls(
            host=values.get("POSTGRES_HOST", "localhost"),
            port=int(port),
            database=values.get("POSTGRES_DB", DATABASE),
            user=values.get("POSTGRES_USER", SUPERUSER),
            password=values.get("POSTGRES_PASSWORD", ""),
            sslmode=values.get("POSTGRES_SSLMODE", "prefer"),
        )

    @classmethod
    def embedded(cls, root: Path) -> "PostgresSettings":
        """The embedded server with its data in ``root``, started if need be."""
        return cls(host=str(embedded_postgres.ensure_running(root)), sslmode="disable")

    @property
    def url(self) -> str:
        """A libpq URL; ADBC and psycopg take it as it is."""
        return self._url("postgresql")

    def sqlalchemy_url(self, *, schema: str) -> str:
        """The same for SQLAlchemy, in ``schema``. The driver is named: its default changed between releases."""
        return self._url("postgresql+psycopg", search_path=schema)

    @property
    def label(self) -> str:
        """The server and database for people to read, without credentials."""
        return f"{self.host}:{self.port}/{self.database}"

    def _url(self, scheme: str, **session: str) -> str:
        credentials = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        # A session in another time zone would read dates and timestamps differently.
        session = {"timezone": "UTC", **session}
        query = {
            "host": self.host,
            "port": self.port,
            "sslmode": self.sslmode,
            **NOTICING,
            "options": " ".join(f"-c{name}={value}" for name, value in session.items()),
        }
        return f"{scheme}://{credentials}@/{quote(self.database, safe='')}?{urlencode(query, quote_via=quote)}"


def connect_settings() -> PostgresSettings:
    """The server to use: the one in ``POSTGRES_*``, else the embedded one (started on first use).

    Raises:
        EmbeddedPostgresError: the embedded server cannot be started.
        ValueError: a variable has a value that cannot be used.
    """
    return PostgresSettings.from_environment() or PostgresSettings.embedded(data_dir() / "postgres")


def main() -> int:
    """Open ``psql`` on the database: the embedded server's; for TLS, which that one lacks, this machine's.

    Returns:
        The exit status.
    """
    try:
        settings = connect_settings()
    except (EmbeddedPostgresError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    client = None if settings.sslmode == "disable" else shutil.which("psql")
    if client is None and settings.sslmode in ("require", "verify-ca", "verify-full"):
        sys.stderr.write(
            f"POSTGRES_SSLMODE is {settings.sslmode!r}, and the psql that comes with the embedded server has no TLS: "
            "install PostgreSQL's client, so that psql is on the PATH\n"
        )
        return 1
    # A child, not exec: this process holds the embedded server while psql runs. The password is in no command line.
    return subprocess.call(
        [client or str(binaries() / "psql"), replace(settings, password="").url],
        env=os.environ | ({"PGPASSWORD": settings.password} if settings.password else {}),
    )


if __name__ == "__main__":
    raise SystemExit(main())
