"""The digest of a promotion's artifacts: in the open, resumed, and taken again. Real files and a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

import psycopg
import pytest

from app.adapters.clock import SystemClock
from app.adapters.object_store import ObjectStores
from app.adapters.postgres.unit_of_work import Database
from app.domain.digests import FileDigest, Measurement, StoredFile, tree_digest
from app.domain.errors import Unavailable, Unresolvable
from app.services.measuring import Measuring

PROMOTION = "prm_1"
FILES = {"MLmodel": b"flavors", "data/a.bin": b"a" * 1000, "data/b.bin": b"b" * 900, "data/c.bin": b"c" * 800}
ROWS = """
INSERT INTO policy_revisions VALUES ('p', 1, '{}', now(), 'test');
INSERT INTO promotions (id, kind, model, alias, to_version, model_created_at, source_uri, artifact_root, uri,
    policy_name, policy_revision, requested_by, requested_by_name, reason, created_at, updated_at, state, alias_moved,
    revision)
VALUES ('prm_1', 'promotion', 'm', 'production', '1', 1, 'mlflow-artifacts:/1', '1', 'file:///m/', 'p', 1, 'a', 'a', '',
    now(), now(), 'pending', false, 1)
"""


@dataclass
class Watched:
    """The store, and what is read of it; it stops answering after ``answers`` files, or waits there for ``go_on``."""

    store: ObjectStores = field(default_factory=ObjectStores)
    read_paths: list[str] = field(default_factory=list)
    answers: int | None = None
    go_on: asyncio.Event | None = None
    known: Callable[[StoredFile], StoredFile] = lambda file: file

    async def stored(self, uri: str) -> list[StoredFile]:
        return [self.known(file) for file in await self.store.stored(uri)]

    async def digests(
        self, uri: str, files: Sequence[StoredFile], progress: Callable[[int], None]
    ) -> AsyncGenerator[FileDigest]:
        async with aclosing(self.store.digests(uri, files, progress)) as found:
            async for digest in found:
                if self.answers is not None and len(self.read_paths) >= self.answers:
                    if self.go_on is None:
                        raise Unavailable("The artifact store does not answer.")
                    await self.go_on.wait()
                self.read_paths.append(digest.path)
                yield digest

    async def read(self, uri: str, path: str, *, limit: int) -> bytes:
        return await self.store.read(uri, path, limit=limit)

    async def files(self, uri: str) -> list[FileDigest]:
        return await self.store.files(uri)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return tmp_path


@pytest.fixture
def uri(folder: Path) -> str:
    return folder.as_uri() + "/"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    with psycopg.connect(database_url) as connection:
        connection.execute(ROWS)
    database = Database(database_url)
    yield database
    await database.close()


def measuring(database: Database, store: Watched, *, every_s: float = 60) -> Measuring:
    return Measuring(database.unit_of_work, store, SystemClock(), topic_of="promotion:{}".format, every_s=every_s)


async def measurement(database: Database) -> Measurement:
    async with database.unit_of_work() as work:
        found = await work.measurements.find(PROMOTION)
    assert found is not None
    return found


async def expected(uri: str) -> str:
    return tree_digest(await ObjectStores().files(uri))


async def test_a_measurement_is_written_down_with_its_digest(database: Database, uri: str) -> None:
    async with database.unit_of_work() as work:
        assert await work.measurements.find(PROMOTION) is None
    result = await measuring(database, Watched()).measure(PROMOTION, uri)
    size = sum(len(data) for data in FILES.values())
    assert (result.digest, result.size) == (await expected(uri), size)
    assert [file.path for file in result.files] == sorted(FILES)
    found = await measurement(database)
    assert (found.digest, found.share) == (result.digest, 1.0)
    assert (found.total_bytes, found.read_bytes, found.total_files, found.done_files) == (size, size, 4, 4)


async def test_what_was_read_before_a_failure_is_not_read_again(database: Database, uri: str) -> None:
    first = Watched(answers=2)
    with pytest.raises(Unavailable):
        await measuring(database, first).measure(PROMOTION, uri)
    found = await measurement(database)
    assert (found.done_files, found.digest) == (2, None)
    second = Watched()
    result = await measuring(database, second).measure(PROMOTION, uri)
    assert sorted(first.read_paths + second.read_paths) == sorted(FILES)
    assert result.digest == await expected(uri)
    assert (await measurement(database)).share == 1.0


async def test_what_changed_since_it_was_read_is_read_again(database: Database, folder: Path, uri: str) -> None:
    await measuring(database, Watched()).measure(PROMOTION, uri)
    (folder / "data/a.bin").write_bytes(b"A" * 1000)
    (folder / "data/b.bin").unlink()
    (folder / "new").write_bytes(b"")
    store = Watched()
    result = await measuring(database, store).measure(PROMOTION, uri)
    assert sorted(store.read_paths) == ["data/a.bin", "new"]
    assert result.digest == (await measurement(database)).digest == await expected(uri)


async def test_a_measurement_that_is_cancelled_keeps_what_it_has(database: Database, uri: str) -> None:
    store = Watched(answers=3, go_on=asyncio.Event())
    task = asyncio.create_task(measuring(database, store).measure(PROMOTION, uri))
    while len(store.read_paths) < 3:  # noqa: ASYNC110  # of a thread
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await measurement(database)).done_files == 3
    rest = Watched()
    await measuring(database, rest).measure(PROMOTION, uri)
    assert len(rest.read_paths) == 1


async def test_progress_shows_while_it_is_read(database: Database, uri: str) -> None:
    store = Watched(answers=1, go_on=asyncio.Event())
    task = asyncio.create_task(measuring(database, store, every_s=0.01).measure(PROMOTION, uri))
    async with database.unit_of_work() as work:
        while (found := await work.measurements.find(PROMOTION)) is None or not found.done_files:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert (found.done_files, found.total_files, found.digest) == (1, 4, None)
    assert 0 < found.share <= 1
    assert store.go_on is not None
    store.go_on.set()
    await task
    assert (await measurement(database)).done_files == 4


async def test_before_it_is_applied_everything_is_read_again(database: Database, uri: str) -> None:
    before = await measuring(database, Watched()).measure(PROMOTION, uri)
    store = Watched()
    assert await measuring(database, store).again(PROMOTION, uri) == before
    assert sorted(store.read_paths) == sorted(FILES)


async def test_other_bytes_with_the_stamp_of_the_approved_ones_are_found(
    database: Database, folder: Path, uri: str
) -> None:
    store = Watched(known=lambda file: replace(file, stamp="the same"))
    lying = Watched(known=store.known, store=Forgiving())
    before = await measuring(database, lying).measure(PROMOTION, uri)
    (folder / "data/a.bin").write_bytes(b"A" * 1000)
    after = await measuring(database, lying).again(PROMOTION, uri)
    assert after.digest == await expected(uri) != before.digest
    assert (await measurement(database)).digest == before.digest, "what was approved stays on record"


class Forgiving(ObjectStores):
    """A store whose stamps somebody can keep: it reads whatever is there."""

    async def digests(
        self, uri: str, files: Sequence[StoredFile], progress: Callable[[int], None]
    ) -> AsyncGenerator[FileDigest]:
        wanted = {file.path for file in files}
        true = [file for file in await self.stored(uri) if file.path in wanted]
        async with aclosing(super().digests(uri, true, progress)) as found:
            async for digest in found:
                yield digest


async def test_versions_that_cannot_change_are_not_read_again(database: Database, uri: str) -> None:
    def known(file: StoredFile) -> StoredFile:
        return replace(file, is_immutable=file.path != "MLmodel")

    before = await measuring(database, Watched(known=known)).measure(PROMOTION, uri)
    store = Watched(known=known)
    assert await measuring(database, store).again(PROMOTION, uri) == before
    assert store.read_paths == ["MLmodel"]


async def test_what_the_store_digested_itself_is_never_read(database: Database, uri: str) -> None:
    sums = {digest.path: digest.sha256 for digest in await ObjectStores().files(uri)}
    store = Watched(known=lambda file: replace(file, sha256=sums[file.path] if "data" in file.path else None))
    service = measuring(database, store)
    digests = [(await service.measure(PROMOTION, uri)).digest, (await service.again(PROMOTION, uri)).digest]
    assert digests == [await expected(uri)] * 2
    assert store.read_paths == ["MLmodel", "MLmodel"]
    now = await service.measure_now(uri, len(FILES["MLmodel"]))
    assert now is not None
    assert now.digest == digests[0]


async def test_a_small_model_is_measured_at_once_and_a_large_one_is_not_begun(database: Database, uri: str) -> None:
    store = Watched()
    service = measuring(database, store)
    size = sum(len(data) for data in FILES.values())
    assert await service.measure_now(uri, size - 1) is None
    assert store.read_paths == []
    now = await service.measure_now(uri, size)
    assert now is not None
    assert now.digest == await expected(uri)


async def test_many_files_are_not_read_while_somebody_waits(database: Database, folder: Path, uri: str) -> None:
    (folder / "many").mkdir()
    for number in range(1001):
        (folder / "many" / f"{number}").touch()
    service = measuring(database, Watched())
    assert await service.measure_now(uri, 1_000_000) is None
    assert (await service.measure(PROMOTION, uri)).digest == await expected(uri)
    assert (await measurement(database)).done_files == 1005


async def test_files_of_a_settled_promotion_can_be_dropped(database: Database, uri: str) -> None:
    await measuring(database, Watched()).measure(PROMOTION, uri)
    async with database.unit_of_work() as work:
        assert len(await work.measurements.kept(PROMOTION)) == len(FILES)
        await work.measurements.forget(PROMOTION)
        assert await work.measurements.kept(PROMOTION) == {}
        await work.commit()
    assert (await measurement(database)).digest


async def test_artifacts_that_are_not_there_are_said(database: Database) -> None:
    with pytest.raises(Unresolvable, match="There are no artifacts"):
        await measuring(database, Watched()).measure(PROMOTION, "file:///no/such/folder/")
