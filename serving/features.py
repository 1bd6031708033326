"""The online features of ``feature_repo``, opened when the database is there and read again when definitions change."""

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from feast.errors import FeastObjectNotFoundException
from sqlalchemy.exc import SQLAlchemyError

from feature_repo.features import ENTITY_KEYS
from feature_repo.online_postgres import OnlineStoreUnavailableError
from feature_repo.online_reader import OnlineFeatures, OnlineReader
from feature_repo.store import open_store
from serving.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore

_LOG = logging.getLogger(__name__)

# After a failure, requests fail at once for this long, instead of each waiting for its own three attempts.
_PAUSE_SECONDS = 0.5


class Features:
    """Reads feature services. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._store: FeatureStore | None = None
        self._readers: dict[str, OnlineReader] = {}
        self._lock = threading.Lock()
        self._held = ExitStack()
        self._paused: tuple[float, OnlineStoreUnavailableError] | None = None

    def prepare(self, service: str) -> None:
        """Open the feature store, if it is not, look the service up and read it once.

        Raises:
            Exception: the database is not there or lacks the service; another call may succeed.
        """
        if self._store is None:
            with ExitStack() as held:
                store = held.enter_context(open_store())
                store.config.online_store.pool_timeout = self._settings.database_seconds
                store.config.online_store.statement_timeout = self._settings.statement_seconds
                self._held = held.pop_all()
            self._store = store
        self.read(service, {key: [0] for key in ENTITY_KEYS})

    def close(self) -> None:
        """Close the connections."""
        self._held.close()

    def read(self, service: str, keys: Mapping[str, Sequence[Any]]) -> OnlineFeatures:
        """The features of ``keys``.

        Raises:
            OnlineStoreUnavailableError: the database does not answer.
            LookupError: the online store does not have the views of this service, or not as they are defined.
        """
        if self._paused is not None and time.monotonic() < self._paused[0]:
            raise self._paused[1]
        try:
            try:
                features = self._reader(service).read(keys)
            except LookupError:
                # The definitions were applied anew since the reader was made.
                self._forget_readers()
                features = self._reader(service).read(keys)
        except OnlineStoreUnavailableError as error:
            # Not for each of the requests that fail with it in the meantime: they may be hundreds a second.
            _LOG.warning("%s", error)
            self._paused = (time.monotonic() + _PAUSE_SECONDS, error)
            raise
        except LookupError as error:
            _LOG.warning("%s", error)
            raise
        self._paused = None
        return features

    def _reader(self, service: str) -> OnlineReader:
        with self._lock:
            if service not in self._readers:
                assert self._store is not None  # noqa: S101 - prepared before the first request is let in
                try:
                    self._readers[service] = OnlineReader(self._store, service)
                except SQLAlchemyError as error:
                    raise OnlineStoreUnavailableError(f"the feature registry does not answer: {error}") from error
                except FeastObjectNotFoundException as error:
                    raise LookupError(f"{error}: apply the feature repository first") from error
                except ValueError as error:
                    # Feast writes one definition after the other: a service may ask for what its view does not have.
                    raise LookupError(f"the feature definitions do not fit together just now: {error}") from error
            return self._readers[service]

    def _forget_readers(self) -> None:
        with self._lock:
            assert self._store is not None  # noqa: S101 - as above
            try:
                self._store.refresh_registry()
            except SQLAlchemyError as error:
                raise OnlineStoreUnavailableError(f"the feature registry does not answer: {error}") from error
            self._readers.clear()
