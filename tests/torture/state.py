"""What runs have published: compared to the bit at the end, and looked at by a reader meanwhile."""

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import psycopg
import pyarrow.parquet as pq

from feature_repo.database import PostgresSettings
from forecast_assets.content_hash import content_hash
from forecast_assets.frame_store import FrameStore
from forecast_assets.model_store import ModelStore
from forecast_assets.raw_store import RawStore
from trainer.bundle import bundle_hash, read_sidecar

State = dict[str, str]

READER = "reader"  # name of the reader's sessions

_TABLES = ("sales_features", "store_features", "sales_windows", "weekly_forecasts", "horizon_forecasts")
_HISTORIES = ("weekly_forecasts_history", "horizon_forecasts_history", "sold_weeks")
_QUERIES = {
    **{f"table {name}": f"SELECT (to_jsonb(t) - 'created_at')::text FROM {name} t" for name in (*_TABLES, *_HISTORIES)},
    "versions": "SELECT (table_name, data_version, row_count)::text FROM feature_table_versions",
    "ledger": "SELECT (file, content_hash)::text FROM forecast_assets.ingest_history WHERE in_force",
}
# Tables of which a reader sees one version or the other as a whole.
_READ = tuple(f"table {name}" for name in _TABLES)


def published(data: Path, settings: PostgresSettings) -> State:
    """A digest of each thing that runs publish under ``data`` and in the database."""
    with psycopg.connect(settings.url) as connection:
        return {**_of_database(connection), **_of_files(data)}


def leftovers(data: Path) -> list[str]:
    """Files and folders that were being written and that nobody will finish."""
    return sorted(
        str(path.relative_to(data))
        for folder in ("raw", "frames", "models", "forecasts", "pictures", "trainjobs", "quarantine")
        for path in (data / folder).rglob("*")
        if path.name.startswith(".") or path.name.endswith((".partial", ".checkpoints"))
    )


class Reader(threading.Thread):
    """Looks at frame, champion, forecasts and tables again and again, and notes what should not be seen.

    Args:
        allowed: the states of which a reader may see either, thing by thing.
    """

    def __init__(self, data: Path, settings: PostgresSettings, allowed: tuple[State, State]) -> None:
        super().__init__(daemon=True)
        self._seen: set[str] = set()
        self._looks = {"the files": 0, "the tables": 0}
        self._data, self._settings, self._allowed = data, settings, allowed
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.05):
            with suppress(psycopg.OperationalError):  # the server is away
                self._look("the files", self._look_at_files)
                self._look("the tables", self._look_at_tables)

    def stop(self) -> list[str]:
        """Come to an end. Returns what should not have been seen, in a sentence each."""
        self._stopped.set()
        self.join(timeout=30)
        blind = [f"a reader never saw {what}" for what, times in self._looks.items() if not times]
        return sorted(self._seen) + blind

    def _look(self, what: str, look: Callable[[], None]) -> None:
        try:
            look()
        except psycopg.OperationalError:
            raise
        except Exception as error:  # whatever a reader would have been told
            self._seen.add(f"a reader of {what} gets {type(error).__name__}: {error}")
        self._looks[what] += 1

    def _look_at_files(self) -> None:
        frames, models = FrameStore(self._data / "frames"), ModelStore(self._data / "models")
        current, champion = frames.current(), models.champion()
        if current is not None:
            self._compare("frame", current[1].content_hash)
            for chunk in current[1].chunks:
                if _sha256(current[0] / str(chunk["file"])) != chunk["sha256"]:
                    self._seen.add("a reader finds a chunk of the frame that is not what the manifest says")
        if champion is not None:
            self._compare("name of the champion", champion.name)
            for name, expected in read_sidecar(champion)["files"].items():
                if _sha256(champion / name) != expected:
                    self._seen.add(f"a reader finds {name} of the champion that is not what its sidecar says")
        for path in (self._data / "forecasts").glob("*.parquet"):
            self._compare(f"forecasts {path.name}", content_hash(pq.read_table(path)))

    def _look_at_tables(self) -> None:
        with psycopg.connect(self._settings.url, connect_timeout=2, application_name=READER) as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            now = _of_database(connection)
        for name in _READ:
            self._compare(name, now[name])

    def _compare(self, name: str, found: str) -> None:
        if found not in {state.get(name) for state in self._allowed}:
            self._seen.add(f"a reader finds {name} as neither before nor after")


def _of_database(connection: "psycopg.Connection[tuple[object, ...]]") -> State:
    queries = dict(_QUERIES)
    # materialized_versions counts the writes, of which there may be more.
    for schema, table in connection.execute(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_schema = 'feast_online' AND table_name <> 'materialized_versions'"
    ).fetchall():
        queries[f"online {table}"] = f"SELECT (to_jsonb(t) - 'created_ts')::text FROM {schema}.{table} t"
    found = {}
    for name, query in queries.items():
        relation = query.rpartition(" FROM ")[2].split()[0]
        (exists,) = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [relation]).fetchone() or (False,)
        rows = sorted(str(row[0]) for row in connection.execute(query).fetchall()) if exists else []
        found[name] = f"{len(rows)} rows {hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]}"
    return found


def _of_files(data: Path) -> State:
    frames, models = FrameStore(data / "frames"), ModelStore(data / "models")
    current, found = frames.current(), {}
    found["drop"] = str(sorted(RawStore(data / "raw").contents().items()))
    for file in RawStore(data / "raw").load().files:
        found[f"drop {file.name}"] = content_hash(file.table)
    if current is not None:
        found["frame"] = current[1].content_hash
        found["frame rows"] = content_hash(frames.load())
    for name, bundle in (("candidate", models.candidate()), ("champion", models.champion())):
        if bundle is not None:
            found[f"name of the {name}"] = bundle.name
            found[name] = f"{bundle_hash(bundle)} {read_sidecar(bundle)['scores']}"
    for path in sorted((data / "forecasts").glob("*.parquet")):
        found[f"forecasts {path.name}"] = content_hash(pq.read_table(path))
    return found


def differences(expected: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """Where two states differ."""
    return [
        f"{name} is {actual.get(name)}, expected {expected.get(name)}"
        for name in sorted({*expected, *actual})
        if expected.get(name) != actual.get(name)
    ]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
