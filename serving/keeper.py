"""Follows the champion: a new one is loaded beside the old, checked, and only then takes its place."""

import asyncio
import logging
import time
from pathlib import Path

from serving.champion import load_champion
from serving.engine import Engine
from serving.features import Features
from serving.metrics import Metrics
from serving.settings import Settings
from trainer.errors import BundleError
from trainer.reference import referenced_bundle

_LOG = logging.getLogger(__name__)

# A refused bundle is looked at again, because a shared volume may show it in parts.
_SECOND_LOOK_SECONDS = 30.0

_Signature = tuple[str, int, int]


class Keeper:
    """Brings the service to readiness, and to each new champion."""

    def __init__(self, settings: Settings, engine: Engine, features: Features, metrics: Metrics) -> None:
        self._settings = settings
        self._engine = engine
        self._features = features
        self._metrics = metrics
        self._served: _Signature | None = None
        self._refused: tuple[_Signature, float] | None = None
        self._said = ""

    async def look(self) -> None:
        """Take the champion into service, if it is a new one and can be."""
        try:
            await self._follow()
        except Exception as error:
            # The next look may find the database, or the volume, again.
            self._say(f"not ready: {error}" if not self._engine.ready else f"the champion is not known: {error}")

    async def run(self) -> None:
        """Look for a new champion, for ever."""
        while True:
            await asyncio.sleep(self._settings.watch_seconds)
            await self.look()

    async def _follow(self) -> None:
        bundle = referenced_bundle(self._settings.models_folder, "CHAMPION")
        if bundle is None:
            self._say(f"there is no champion in {self._settings.models_folder} yet: train and promote a model")
            return
        signature = _signature(bundle)
        if signature == self._served:
            return
        if self._refused and self._refused[0] == signature and time.monotonic() < self._refused[1]:
            return
        try:
            champion = await asyncio.to_thread(load_champion, bundle)
        except BundleError as error:
            if self._refused is None or self._refused[0] != signature:
                self._metrics.refused.inc()
                self._metrics.errors.labels("bundle").inc()
            self._refused = (signature, time.monotonic() + _SECOND_LOOK_SECONDS)
            self._say(f"{error}; " + ("the old champion goes on" if self._engine.ready else "there is none to serve"))
            return
        before = self._engine.champion
        if before is None or before.service != champion.service:
            await asyncio.to_thread(self._features.prepare, champion.service)
        self._engine.champion = champion
        if before is not None:
            self._metrics.model.labels(before.name, before.version).set(0)
        self._metrics.model.labels(champion.name, champion.version).set(1)
        self._metrics.switches.inc()
        self._served, self._refused = signature, None
        self._say(f"champion {champion.name} serves" + (f" in place of {before.name}" if before else ""))

    def _say(self, text: str) -> None:
        """Log what is new."""
        if text != self._said:
            _LOG.warning("%s", text)
            self._said = text


def _signature(bundle: Path) -> _Signature:
    """Changes when another bundle is named, or this one is replaced."""
    try:
        found = bundle.stat()
    except FileNotFoundError:
        return bundle.name, 0, 0
    return bundle.name, found.st_ino, found.st_mtime_ns
