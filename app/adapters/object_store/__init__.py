"""Where artifacts lie: a local folder or S3. They are read in pieces, several at once, in threads of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial

from app.adapters.object_store.local import LocalFolders
from app.adapters.object_store.reading import Stop, Store, alone, concurrently, one_after_another
from app.adapters.object_store.s3 import S3
from app.domain.digests import FileDigest, StoredFile, check_path
from app.domain.errors import Unresolvable


class ObjectStores:
    """See ``app.ports.ObjectStore``: picks the store by the scheme of the URI.

    Args:
        destination: where MLflow puts artifacts; if that is a folder, no symbolic link is followed below it.
    """

    def __init__(self, destination: str | None = None) -> None:
        folder = None if destination and destination.startswith("s3://") else destination
        self._stores: dict[str, Store] = {"file": LocalFolders(folder), "s3": S3()}

    async def stored(self, uri: str) -> list[StoredFile]:
        return await alone(partial(self._store(uri).stored, uri))

    async def digests(
        self, uri: str, files: Sequence[StoredFile], progress: Callable[[int], None]
    ) -> AsyncGenerator[FileDigest]:
        store = self._store(uri)
        largest_first = sorted(files, key=lambda file: file.size, reverse=True)
        with store.reading(uri, progress) as read:
            async with aclosing(concurrently(read, largest_first, threads=store.threads)) as found:
                async for digest in found:
                    yield digest

    async def read(self, uri: str, path: str, *, limit: int) -> bytes:
        return await alone(partial(self._store(uri).read, uri, check_path(path), limit))

    async def find(self, uri: str, path: str) -> StoredFile:
        return await alone(partial(self._store(uri).find, uri, check_path(path)))

    def content(self, uri: str, file: StoredFile, *, first: int, length: int) -> AsyncGenerator[bytes]:
        return one_after_another(self._store(uri).pieces(uri, file, first, length))

    async def starts(self, uri: str, files: Sequence[StoredFile], *, length: int) -> dict[str, bytes]:
        store = self._store(uri)

        def start(file: StoredFile, stop: Stop) -> tuple[str, bytes]:
            return file.path, store.start(uri, file, length, stop) if file.size else b""

        async with aclosing(concurrently(start, files, threads=store.threads)) as found:
            return {path: content async for path, content in found}

    async def files(self, uri: str) -> list[FileDigest]:
        async with aclosing(self.digests(uri, await self.stored(uri), lambda _: None)) as found:
            return [digest async for digest in found]

    def _store(self, uri: str) -> Store:
        scheme, separator, _ = uri.partition("://")
        store = self._stores.get(scheme) if separator else None
        if store is None:
            known = f"{scheme} is" if separator else "without a scheme, it is"
            raise Unresolvable(f"Artifacts at {uri} cannot be read: {known} not a supported place.")
        return store
