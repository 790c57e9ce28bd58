"""Writes down what was digested: which files, and what their ``MLmodel`` says."""

from __future__ import annotations

import asyncio
import hashlib

from app.domain.digests import Measured
from app.domain.errors import TooLarge, Unresolvable
from app.domain.manifests import manifest_of
from app.domain.mlmodel import facts_of
from app.ports import Clock, ObjectStore
from app.services.evidence import LooseReader, cleaned
from app.services.recording import UnitOfWorkFactory

MLMODEL = "MLmodel"
_LARGEST_MLMODEL = 256 * 1024
"""Bytes; a larger one is not read, and says nothing."""


class Manifests:
    def __init__(
        self, unit_of_work: UnitOfWorkFactory, store: ObjectStore, clock: Clock, read_yaml: LooseReader
    ) -> None:
        self._unit_of_work = unit_of_work
        self._store = store
        self._clock = clock
        self._read_yaml = read_yaml

    async def keep(self, uri: str, measured: Measured) -> bool:
        """Write the manifest of a tree that was digested, unless it is there; whether it was written now.

        A description is kept only of the ``MLmodel`` that was digested. If it cannot be had now, nothing is written,
        and whoever finds the manifest missing makes it.

        Raises:
            Unavailable: the store does not answer.
        """
        async with self._unit_of_work() as work:
            if await work.manifests.has(measured.digest):
                return False
        try:
            text = await self._mlmodel(uri, measured)
        except Unresolvable:
            return False
        paths = {file.path for file in measured.files}
        document = None if text is None else await asyncio.to_thread(self._read_yaml, text)
        manifest = manifest_of(measured, cleaned(facts_of(document, paths)))
        async with self._unit_of_work() as work:
            await work.manifests.add(manifest, at=self._clock.now())
            await work.commit()
        return True

    async def _mlmodel(self, uri: str, measured: Measured) -> bytes | None:
        """Raises ``Unresolvable``: it is not there, or not the one that was digested."""
        digested = next((file for file in measured.files if file.path == MLMODEL), None)
        if digested is None:
            return None
        try:
            text = await self._store.read(uri, MLMODEL, limit=_LARGEST_MLMODEL)
        except TooLarge:
            if digested.size > _LARGEST_MLMODEL:
                return None
            raise Unresolvable(f"{MLMODEL} is not the file that was digested.") from None
        if hashlib.sha256(text).hexdigest() != digested.sha256:
            raise Unresolvable(f"{MLMODEL} is not the file that was digested.")
        return text
