"""How the service runs, from ``SERVING_*`` in the environment."""

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from feature_repo.paths import data_dir

PREFIX = "SERVING_"
MAX_ROWS = 10_000
"""Rows in one request."""

OnStale = Literal["warn", "refuse"]
_POSITIVE = (
    *("port", "workers", "watch_seconds", "max_requests", "max_rows", "max_body_bytes"),
    *("database_seconds", "statement_seconds", "request_seconds", "shutdown_seconds"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Each field is the variable ``SERVING_<NAME>``.

    Attributes:
        host, port: where to listen.
        workers: processes; each holds a model of its own.
        api_key: what requests have to bring; empty for none, which is only allowed on a loopback address.
        models: folder with ``CHAMPION`` and the bundles; by default that of the Dagster side.
        model_name: its name in the Open Inference Protocol.
        watch_seconds: how often the champion is looked for.
        stale_after_days: features older than this are stale; 0 for never.
        on_stale: whether stale features are answered with a warning, or refused.
        max_requests: requests in work or waiting; more are answered with 429.
        max_rows: rows in work or waiting in all requests together; more are answered with 429.
        max_body_bytes: larger bodies are answered with 413.
        database_seconds: how long to wait for a database connection, three times.
        statement_seconds: how long the database may take for one read; one that waits longer is answered with 503.
        request_seconds: how long a request may take before it is answered with 503.
        shutdown_seconds: how long requests in work may take after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    api_key: str = field(default="", repr=False)
    models: str = ""
    model_name: str = "demand-forecast"
    watch_seconds: float = 1.0
    stale_after_days: float = 14.0
    on_stale: OnStale = "warn"
    max_requests: int = 256
    max_rows: int = 100_000
    max_body_bytes: int = 2_000_000
    database_seconds: float = 1.0
    statement_seconds: float = 5.0
    request_seconds: float = 15.0
    shutdown_seconds: int = 30

    def __post_init__(self) -> None:
        if not self.api_key and not _is_loopback(self.host):
            raise ValueError(
                f"{PREFIX}HOST is {self.host}, which others can reach, and {PREFIX}API_KEY is not set: set a key, or "
                "listen on 127.0.0.1"
            )
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"{PREFIX}{name.upper()} is {getattr(self, name)}: it must be above 0")
        if self.max_rows < MAX_ROWS:
            raise ValueError(f"{PREFIX}MAX_ROWS is {self.max_rows}: one request may already have {MAX_ROWS:,}")

    @property
    def models_folder(self) -> Path:
        """The folder with ``CHAMPION`` and the bundles."""
        return Path(self.models).expanduser() if self.models else data_dir() / "models"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """The settings of ``SERVING_*``; those that are not set, or empty, have their defaults.

        Raises:
            ValueError: a variable has a value that cannot be used, or is not one of the service's.
        """
        known = {f"{PREFIX}{each.name.upper()}": each for each in fields(cls)}
        if unknown := sorted(name for name in environment if name.startswith(PREFIX) and name not in known):
            raise ValueError(f"{', '.join(unknown)} is no setting of the service: known are {', '.join(known)}")
        types = get_type_hints(cls)
        values = {
            each.name: _parsed(variable, environment[variable], types[each.name])
            for variable, each in known.items()
            if environment.get(variable)
        }
        return cls(**values)


def _parsed(variable: str, text: str, type_: Any) -> Any:
    if choices := get_args(type_):
        if text not in choices:
            raise ValueError(f"{variable} is {text!r}: it must be one of {', '.join(choices)}")
        return text
    try:
        return type_(text)
    except ValueError:
        raise ValueError(f"{variable} is {text!r}, which is not a number") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
