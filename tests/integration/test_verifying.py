"""What resolves is what was approved: bytes that change afterwards, on the real MLflow with local files, and on S3."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer
from prometheus_client import REGISTRY

from app.adapters.lenient_yaml import load_or_nothing
from app.adapters.object_store import ObjectStores
from app.adapters.postgres.changes import PostgresChanges
from app.domain.digests import FileDigest, StoredFile, measured
from app.domain.errors import (
    ArtifactsUnreadable,
    ArtifactsUnsettled,
    BytesChanged,
    Forbidden,
    Unavailable,
)
from app.domain.names import parse_models_uri
from app.domain.promotions import Promotion, State
from app.domain.verifying import BytesState, Rhythm, Verification, approved, key_of
from app.main import describe
from app.routers.schemas.aliases import alias_answer
from app.services import verifying as verifying_module
from app.services.manifests import Manifests
from app.services.recording import alias_topic
from app.services.verifying import LOOKS_AT_ONCE, Verifying
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer

RHYTHM = Rhythm(timedelta(minutes=1), timedelta(days=1))
FILES = {"MLmodel": b"flavors: {sklearn: {}}\n", "data/a": b"a" * 1000, "data/b": b"b" * 900}


@dataclass
class Watched:
    """The store, and what is read of it; ``fails`` says what to raise when files are listed (no path), or one is read.

    ``of``: only what lies at this address.
    """

    of: str | None = None
    store: ObjectStores = field(default_factory=ObjectStores)
    read_paths: list[str] = field(default_factory=list)
    fails: Callable[[str], None] = lambda _: None
    listed: Callable[[StoredFile], StoredFile] = lambda file: file

    async def stored(self, uri: str) -> list[StoredFile]:
        if self.of in {None, uri}:
            self.fails("")
        return [self.listed(file) for file in await self.store.stored(uri)]

    async def digests(
        self, uri: str, files: Sequence[StoredFile], progress: Callable[[int], None]
    ) -> AsyncGenerator[FileDigest]:
        present = {file.path: file for file in await self.store.stored(uri)}
        for file in files:
            if self.of in {None, uri}:
                self.fails(file.path)
            async with aclosing(self.store.digests(uri, [present[file.path]], progress)) as found:
                async for digest in found:
                    if self.of in {None, uri}:
                        self.read_paths.append(digest.path)
                    yield digest

    async def read(self, uri: str, path: str, *, limit: int) -> bytes:
        return await self.store.read(uri, path, limit=limit)

    async def files(self, uri: str) -> list[FileDigest]:
        return await self.store.files(uri)

    async def starts(self, uri: str, files: Sequence[StoredFile], *, length: int) -> Mapping[str, bytes]:
        return await self.store.starts(uri, files, length=length)


@pytest.fixture(scope="module")
async def court(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Court]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            yield court


def verifying(court: Court, store: Watched) -> Verifying:
    work, clock = court.database.unit_of_work, court.clock
    return Verifying(work, store, clock, Manifests(work, store, clock, load_or_nothing), rhythm=RHYTHM)


async def look(court: Court, store: Watched | None = None) -> Watched:
    """One run of the job, when it is time for it; what it read."""
    court.clock.ahead += timedelta(minutes=1)
    store = store or Watched()
    store.read_paths.clear()
    await verifying(court, store).look()
    return store


async def promoted(court: Court) -> tuple[Promotion, Path]:
    """A version that holds an alias, and the folder of its bytes."""
    model = court.model()
    await court.policy(models=model)
    asked = await court.promoted(model)
    return asked, folder_of(asked)


def folder_of(promotion: Promotion) -> Path:
    return Path(unquote(urlsplit(promotion.uri).path))


async def verification(court: Court, promotion: Promotion) -> Verification:
    async with court.database.unit_of_work() as work:
        found = await work.verifications.load(key_of(promotion))
    assert found is not None
    return found


async def resolve(court: Court, promotion: Promotion, alias: str = "production") -> str:
    reference = parse_models_uri(f"models:/{promotion.model}@{alias}")
    return (await court.gateway.services.resolver.look_up(reference, promotion.workspace)).resolution.uri


async def said(court: Court, promotion: Promotion) -> list[tuple[str, Mapping[str, object]]]:
    """The events of a version's bytes."""
    async with court.database.unit_of_work() as work:
        found = await work.events.page(after=0, limit=10_000)
    events = [each.event for each in found if each.event.key.model == promotion.model]
    return [(each.type.value, each.data) for each in events if each.type.value.startswith("version.bytes_")]


async def recorded(court: Court, promotion: Promotion) -> list[str]:
    return [action for action in await court.audit(promotion) if action.startswith("version.")]


async def shown(court: Court, promotion: Promotion) -> dict[str, object]:
    """What the API says of the holder's bytes."""
    state = await court.gateway.services.aliases.get(court.person("vera", "viewers"), promotion.key)
    answer = alias_answer(state).verification
    assert answer
    return answer.model_dump(mode="json")


def scraped(state: str) -> float:
    return REGISTRY.get_sample_value("countersign_versions_not_as_approved", {"state": state}) or 0.0


async def execute(court: Court, statement: str, *values: object) -> None:
    connection = await asyncpg.connect(court.settings.database_url.get_secret_value())
    try:
        await connection.execute(statement, *values)
    finally:
        await connection.close()


async def test_bytes_that_were_overwritten_do_not_resolve_until_they_are_what_was_approved(court: Court) -> None:
    promotion, folder = await promoted(court)
    assert (await look(court)).read_paths == []  # they were read a moment ago
    assert await resolve(court, promotion) == promotion.uri
    assert (await shown(court, promotion))["state"] == "as_approved"
    file = next(path for path in folder.rglob("*") if path.is_file())
    was = file.read_bytes()
    file.write_bytes(b"x" * len(was))
    name = file.relative_to(folder).as_posix()
    changes = PostgresChanges(court.settings.database_url.get_secret_value())
    changes.start()
    async with changes.subscribe(alias_topic(promotion.key)) as watching:
        store = await look(court)
        assert await watching.wait(10)
    await changes.close()
    assert store.read_paths == [name]
    with pytest.raises(BytesChanged, match=f"is not what was approved: changed: {name}") as refusal:
        await resolve(court, promotion)
    assert refusal.value.details["promotion"] == promotion.id
    assert (await shown(court, promotion))["message"] == refusal.value.message
    ((kind, data),) = await said(court, promotion)
    assert (kind, data["state"], data["aliases"], data["version"]) == (
        "version.bytes_changed",
        "changed",
        ["production"],
        "1",
    )
    assert name in str(data["message"])
    assert await recorded(court, promotion) == ["version.bytes_changed"]
    assert scraped("changed") == 1
    # It is found again without being read, and told once.
    store = await look(court)
    assert (store.read_paths, len(await said(court, promotion))) == ([], 1)
    file.write_bytes(was)
    await look(court)
    assert await resolve(court, promotion) == promotion.uri
    assert [kind for kind, _ in await said(court, promotion)] == ["version.bytes_changed", "version.bytes_restored"]
    assert await recorded(court, promotion) == ["version.bytes_changed", "version.bytes_restored"]
    assert scraped("changed") == 0


async def test_what_the_list_tells_is_not_read(court: Court) -> None:
    promotion, folder = await promoted(court)
    (folder / "sitecustomize.py").write_bytes(b"import os")
    store = await look(court)
    assert store.read_paths == []
    with pytest.raises(BytesChanged, match=r"added: sitecustomize\.py"):
        await resolve(court, promotion)
    (folder / "sitecustomize.py").unlink()
    (folder / "link").symlink_to("/etc/passwd")
    await look(court)
    assert "link in" in ((await verification(court, promotion)).message or "")
    (folder / "link").unlink()
    store = await look(court)
    assert (store.read_paths, await resolve(court, promotion)) == ([], promotion.uri)


@pytest.mark.parametrize("page_of", ["alias", "promotion"])
async def test_the_pages_of_the_alias_and_of_its_promotion_say_it(court: Court, issuer: Issuer, page_of: str) -> None:
    promotion, folder = await promoted(court)
    app = describe()
    app.state.services = court.gateway.services
    headers = {"Authorization": f"Bearer {issuer.token('vera', groups=['viewers'])}"}
    address = {
        "alias": f"/console/models/{promotion.model}/aliases/production",
        "promotion": f"/console/promotions/{promotion.id}",
    }[page_of]
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=court.settings.public_url, headers=headers) as browser:
        assert "what was approved" not in (await browser.get(address)).text
        (folder / "<b>new").write_bytes(b"")
        await look(court)
        page = (await browser.get(address)).text
        assert "Its bytes are not what was approved." in page
        assert "added: &lt;b&gt;new." in page
        (folder / "<b>new").unlink()
        await look(court)

        def fail(_: str) -> None:
            raise Unavailable("The artifact store does not answer.")

        await look(court, Watched(fails=fail))
        page = (await browser.get(address)).text
        assert "cannot be seen: <bdi>The artifact store does not answer.</bdi>" in page
    await look(court)


async def test_what_is_gone_is_said_to_be_gone_and_resolves_when_it_is_back(court: Court) -> None:
    promotion, folder = await promoted(court)
    shutil.move(folder, folder.with_name("elsewhere"))
    await look(court)
    with pytest.raises(BytesChanged, match=r"Version 1 of model .* is gone: There are no artifacts") as refusal:
        await resolve(court, promotion)
    assert refusal.value.details["state"] == "gone"
    shutil.move(folder.with_name("elsewhere"), folder)
    await look(court)
    assert await resolve(court, promotion) == promotion.uri
    assert [data.get("state") for _, data in await said(court, promotion)] == ["gone", None]


async def test_the_same_bytes_written_again_are_read_once(court: Court) -> None:
    promotion, folder = await promoted(court)
    files = [path for path in folder.rglob("*") if path.is_file()]
    for file in files:
        file.write_bytes(file.read_bytes())
    store = await look(court)
    assert len(store.read_paths) == len(files)
    assert (await look(court, store)).read_paths == []
    assert await said(court, promotion) == []


async def test_no_stamp_is_believed_for_longer_than_a_day(court: Court) -> None:
    promotion, folder = await promoted(court)
    keeps = Watched(listed=lambda file: replace(file, stamp="as it was"))
    await look(court, keeps)
    file = next(path for path in folder.rglob("*") if path.is_file())
    file.write_bytes(b"x" * file.stat().st_size)
    assert (await look(court, keeps)).read_paths == []
    assert await resolve(court, promotion) == promotion.uri
    court.clock.ahead += timedelta(days=1)
    await look(court, keeps)
    with pytest.raises(BytesChanged):
        await resolve(court, promotion)


@pytest.mark.parametrize(
    "error", [Unavailable("The artifact store does not answer."), ArtifactsUnreadable("The store answered 403.")]
)
@pytest.mark.parametrize("where", ["listed", "read"])
async def test_nothing_is_concluded_from_what_was_not_seen(court: Court, error: Exception, where: str) -> None:
    promotion, folder = await promoted(court)
    file = next(path for path in folder.rglob("*") if path.is_file())
    file.write_bytes(b"x" * file.stat().st_size)

    def fail(path: str) -> None:
        if promotion.id and (not path or where == "read") and bool(path) == (where == "read"):
            raise error

    await look(court, Watched(fails=fail))
    found = await verification(court, promotion)
    assert (found.state, found.obstacle) == (BytesState.AS_APPROVED, str(error))
    assert await resolve(court, promotion) == promotion.uri
    court.clock.ahead += timedelta(days=2)
    await look(court, Watched(fails=fail))
    assert scraped("unseen") >= 1
    await look(court)
    found = await verification(court, promotion)
    assert (found.state, found.obstacle) == (BytesState.CHANGED, None)


async def test_what_changes_each_time_it_is_read_is_not_what_was_approved(court: Court) -> None:
    promotion, folder = await promoted(court)
    file = next(path for path in folder.rglob("*") if path.is_file())
    file.write_bytes(b"x" * file.stat().st_size)
    tries: list[str] = []

    def fail(path: str) -> None:
        if path:
            tries.append(path)
            raise ArtifactsUnsettled(f"{path} changed while it was read.")

    await look(court, Watched(fails=fail))
    assert len(tries) == 3
    with pytest.raises(BytesChanged, match="changed while it was read"):
        await resolve(court, promotion)


async def test_much_is_read_by_a_job_of_its_own_which_goes_on_where_it_was_killed(
    court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    promotion, folder = await promoted(court)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    await execute(court, "UPDATE verifications SET stamps = '{}' WHERE promotion_id = $1", promotion.id)
    files[-1].write_bytes(b"x" * files[-1].stat().st_size)
    monkeypatch.setattr(verifying_module, "READ_AT_ONCE", -1)
    assert (await look(court, Watched(of=promotion.uri))).read_paths == []
    assert (await verification(court, promotion)).unread_bytes == sum(file.stat().st_size for file in files)
    await look(court)  # a second look queues no second job
    connection = await asyncpg.connect(court.settings.database_url.get_secret_value())
    query = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'read_versions' AND status = 'todo'"
    assert await connection.fetchval(query) == 1
    await connection.close()

    class Killed(BaseException):
        pass

    first = Watched(of=promotion.uri)

    def kill(path: str) -> None:
        if path and len(first.read_paths) == len(files) - 1:
            raise Killed

    first.fails = kill
    with pytest.raises(Killed):
        await verifying(court, first).read()
    assert await resolve(court, promotion) == promotion.uri
    second = Watched(of=promotion.uri)
    await verifying(court, second).read()
    assert len(first.read_paths) + len(second.read_paths) == len(files)
    with pytest.raises(BytesChanged):
        await resolve(court, promotion)
    assert (await verification(court, promotion)).unread_bytes is None


async def test_who_looked_meanwhile_has_looked_in_vain(court: Court) -> None:
    promotion, folder = await promoted(court)
    file = next(path for path in folder.rglob("*") if path.is_file())
    was = file.read_bytes()
    await look(court)
    court.clock.ahead += timedelta(minutes=1)
    go_on, is_there = asyncio.Event(), asyncio.Event()

    class Slow(Watched):
        async def stored(self, uri: str) -> list[StoredFile]:
            found = await super().stored(uri)
            if uri == promotion.uri:
                is_there.set()
                await go_on.wait()
            return found

    (folder / "new").write_bytes(b"")
    slow = asyncio.create_task(verifying(court, Slow()).look())
    await is_there.wait()
    (folder / "new").unlink()
    await verifying(court, Watched()).look()
    go_on.set()
    await slow
    assert file.read_bytes() == was
    assert (await verification(court, promotion)).state is BytesState.AS_APPROVED
    assert await said(court, promotion) == []


async def test_who_goes_on_asking_for_another_look_keeps_nothing_from_being_concluded(court: Court) -> None:
    """As a store does that tells of each object that is read, and anybody who may tell in its place."""
    promotion, folder = await promoted(court)
    await look(court)
    (folder / "new").write_bytes(b"")
    court.clock.ahead += timedelta(minutes=1)

    class Told(Watched):
        async def stored(self, uri: str) -> list[StoredFile]:
            async with court.database.unit_of_work() as work:
                await work.verifications.make_due([promotion.uri], court.clock.now())
                await work.commit()
            return await super().stored(uri)

    await verifying(court, Told()).look()
    found = await verification(court, promotion)
    assert (found.state, found.message) == (BytesState.CHANGED, "added: new")
    assert found.due_at <= court.clock.now()


async def test_a_version_that_was_promoted_before_this_was_is_looked_at_too(court: Court) -> None:
    promotion, folder = await promoted(court)
    await execute(court, "DELETE FROM verifications WHERE promotion_id = $1", promotion.id)
    await execute(court, "DELETE FROM manifests WHERE digest = $1", promotion.digest)
    await look(court)
    found = await verification(court, promotion)
    assert (found.state, found.digest, found.aliases) == (BytesState.AS_APPROVED, promotion.digest, ("production",))
    async with court.database.unit_of_work() as work:
        manifest = await work.manifests.find(promotion.digest or "")
        summary = await work.manifests.summary(promotion.digest or "")
    assert manifest
    assert summary
    assert {file.path for file in manifest.files} == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    }
    assert (summary.file_count, summary.size) == (manifest.file_count, manifest.size)
    await execute(court, "DELETE FROM verifications WHERE promotion_id = $1", promotion.id)
    await execute(court, "DELETE FROM manifests WHERE digest = $1", promotion.digest)
    (folder / "new").write_bytes(b"")
    await look(court)
    with pytest.raises(BytesChanged, match="its digest is sha256:"):
        await resolve(court, promotion)


async def test_nothing_is_described_by_another_mlmodel_than_that_which_was_digested(
    court: Court, tmp_path: Path
) -> None:
    (tmp_path / "MLmodel").write_bytes(FILES["MLmodel"])
    uri = f"{tmp_path.as_uri()}/"
    found = measured(await ObjectStores().files(uri))
    manifests = Manifests(court.database.unit_of_work, ObjectStores(), court.clock, load_or_nothing)
    for other in (b"flavors: {pickled: {}}\n", b"#" * 300_000):
        (tmp_path / "MLmodel").write_bytes(other)
        assert not await manifests.keep(uri, found)
    (tmp_path / "MLmodel").unlink()
    assert not await manifests.keep(uri, found)
    (tmp_path / "MLmodel").write_bytes(FILES["MLmodel"])
    assert await manifests.keep(uri, found)
    assert not await manifests.keep(uri, found)  # once
    large = measured([FileDigest("MLmodel", 300_000, hashlib.sha256(b"#" * 300_000).hexdigest())])
    (tmp_path / "MLmodel").write_bytes(b"#" * 300_000)
    assert await manifests.keep(uri, large)
    async with court.database.unit_of_work() as work:
        described = [await work.manifests.summary(each.digest) for each in (found, large)]
    assert [each and each.description.get("flavors") for each in described] == [["sklearn"], None]


async def test_a_clock_that_jumped_keeps_nothing_from_being_looked_at(court: Court) -> None:
    promotion, folder = await promoted(court)
    court.clock.ahead += timedelta(days=400)
    await look(court)
    court.clock.ahead -= timedelta(days=400)
    (folder / "new").write_bytes(b"")
    await look(court)
    assert (await verification(court, promotion)).state is BytesState.CHANGED


async def test_nobody_goes_back_to_bytes_that_changed_and_nobody_is_alarmed_about_old_ones(court: Court) -> None:
    first, folder = await promoted(court)
    await court.promoted(first.model, "2")
    await look(court)
    before = scraped("changed")
    (folder / "new").write_bytes(b"")
    court.clock.ahead += timedelta(days=1)
    await look(court)
    assert scraped("changed") == before
    assert (await verification(court, first)).state is BytesState.CHANGED
    assert await said(court, first) == []
    assert await recorded(court, first) == ["version.bytes_changed"]
    responder = court.person("rae", "responders")
    with pytest.raises(BytesChanged, match="not what was approved: added: new"):
        await court.promotions.roll_back(responder, model=first.model, alias="production")


async def test_an_alias_gets_what_was_approved_for_it_and_not_what_was_approved_for_another(court: Court) -> None:
    promotion, folder = await promoted(court)
    (folder / "new").write_bytes(b"")
    await look(court)
    await court.policy(models=promotion.model, name=f"{promotion.model}-staging", alias="staging")
    other = await court.promoted(promotion.model, alias="staging")
    assert other.digest != promotion.digest
    await look(court)
    assert await resolve(court, other, "staging") == other.uri
    with pytest.raises(BytesChanged, match=r"not what was approved: its digest is .* since promotion"):
        await resolve(court, promotion)


async def test_the_same_bytes_approved_once_more_resolve_when_they_were_looked_at(court: Court) -> None:
    promotion, folder = await promoted(court)
    (folder / "new").write_bytes(b"")
    await look(court)
    (folder / "new").unlink()
    await court.policy(models=promotion.model, name=f"{promotion.model}-staging", alias="staging")
    other = await court.promoted(promotion.model, alias="staging")
    assert other.digest == promotion.digest
    with pytest.raises(BytesChanged):
        await resolve(court, other, "staging")
    await look(court)
    assert await resolve(court, other, "staging") == await resolve(court, promotion) == promotion.uri
    assert [data["aliases"] for _, data in await said(court, promotion)] == [["production"], ["production", "staging"]]


async def test_one_version_that_breaks_keeps_no_other_from_being_looked_at(court: Court) -> None:
    breaks, _ = await promoted(court)
    promotion, folder = await promoted(court)
    (folder / "new").write_bytes(b"")

    class Breaking(Watched):
        async def stored(self, uri: str) -> list[StoredFile]:
            if uri == breaks.uri:
                raise ZeroDivisionError
            return await super().stored(uri)

    with pytest.raises(ZeroDivisionError):
        await look(court, Breaking())
    assert (await verification(court, promotion)).state is BytesState.CHANGED


async def test_a_store_that_is_away_is_not_waited_for_again_and_again(court: Court) -> None:
    holders = [(await promoted(court))[0] for _ in range(2)]
    asked: list[str] = []

    def fail(path: str) -> None:
        asked.append(path)
        raise Unavailable("The artifact store does not answer.")

    await look(court, Watched(fails=fail))
    assert len(asked) <= LOOKS_AT_ONCE
    for promotion in holders:
        assert (await verification(court, promotion)).obstacle == "The artifact store does not answer."
    await look(court)
    for promotion in holders:
        assert (await verification(court, promotion)).obstacle is None


# On S3.


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    chosen = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in chosen.items():
            patched.setenv(name, value)
        client = boto3.client("s3")
        yield client
        client.close()
    server.stop()


async def on_s3(court: Court, client: Any, bucket: str) -> Promotion:
    """A version that holds an alias, and lies in a bucket: as if MLflow's artifacts were there."""
    for path, content in FILES.items():
        client.put_object(Bucket=bucket, Key=f"m/{path}", Body=content)
    promotion, _ = await promoted(court)
    uri = f"s3://{bucket}/m/"
    found = measured(await ObjectStores().files(uri))
    found = replace(found, listed=tuple(await ObjectStores().stored(uri)))
    there = replace(promotion, uri=uri, digest=found.digest, state=State.APPLIED)
    await execute(court, "DELETE FROM verifications WHERE promotion_id = $1", promotion.id)
    async with court.database.unit_of_work() as work:
        await work.verifications.approve(approved(there, found, at=court.clock.now()))
        await work.commit()
    await Manifests(court.database.unit_of_work, ObjectStores(), court.clock, load_or_nothing).keep(uri, found)
    return there


async def test_an_object_that_was_replaced_is_read_and_what_cannot_have_changed_is_not(court: Court, s3: Any) -> None:
    s3.create_bucket(Bucket="versioned")
    s3.put_bucket_versioning(Bucket="versioned", VersioningConfiguration={"Status": "Enabled"})
    promotion = await on_s3(court, s3, "versioned")
    assert (await look(court)).read_paths == []
    s3.put_object(Bucket="versioned", Key="m/data/a", Body=b"x" * 1000)
    assert (await look(court, Watched(of=promotion.uri))).read_paths == ["data/a"]
    assert (await verification(court, promotion)).message == "changed: data/a"
    newest = s3.list_object_versions(Bucket="versioned", Prefix="m/data/a")["Versions"][0]
    s3.delete_object(Bucket="versioned", Key="m/data/a", VersionId=newest["VersionId"])
    await look(court)
    assert (await verification(court, promotion)).state is BytesState.AS_APPROVED
    court.clock.ahead += timedelta(days=2)
    assert (await look(court, Watched(of=promotion.uri))).read_paths == []
    marker = s3.delete_object(Bucket="versioned", Key="m/data/b")["VersionId"]
    await look(court)
    assert (await verification(court, promotion)).message == "removed: data/b"
    s3.delete_object(Bucket="versioned", Key="m/data/b", VersionId=marker)
    assert (await look(court, Watched(of=promotion.uri))).read_paths == []
    assert (await verification(court, promotion)).state is BytesState.AS_APPROVED


async def test_an_object_is_told_by_its_etag_where_no_versions_are_kept(court: Court, s3: Any) -> None:
    s3.create_bucket(Bucket="plain")
    promotion = await on_s3(court, s3, "plain")
    assert (await look(court)).read_paths == []
    s3.put_object(Bucket="plain", Key="m/data/a", Body=b"x" * 1000)
    assert (await look(court, Watched(of=promotion.uri))).read_paths == ["data/a"]
    assert (await verification(court, promotion)).state is BytesState.CHANGED
    s3.put_object(Bucket="plain", Key="m/data/a", Body=FILES["data/a"])
    await look(court)
    assert (await verification(court, promotion)).state is BytesState.AS_APPROVED
    for path in FILES:
        s3.delete_object(Bucket="plain", Key=f"m/{path}")
    await look(court)
    assert (await verification(court, promotion)).state is BytesState.GONE
    async with court.database.unit_of_work() as work:
        manifest = await work.manifests.find(promotion.digest or "")
    assert manifest
    assert manifest.description["flavors"] == ["sklearn"]
    expected = {path: hashlib.sha256(content).hexdigest() for path, content in FILES.items()}
    assert {file.path: file.sha256 for file in manifest.files} == expected


async def test_a_store_that_says_that_something_changed_has_it_looked_at_now(court: Court, s3: Any) -> None:
    s3.create_bucket(Bucket="telling")
    promotion = await on_s3(court, s3, "telling")
    await look(court)
    assert (await verification(court, promotion)).due_at > court.clock.now()
    s3.put_object(Bucket="telling", Key="m/data/a", Body=b"x" * 1000)
    server, people = court.gateway.services.storage_events, court.person("vera", "viewers")
    said = {"s3": {"bucket": {"name": "telling"}, "object": {"key": "m/data/a"}}}
    with pytest.raises(Forbidden):
        await server.note(court.person("stan"), {"Records": [said]})
    assert await server.note(people, {"Records": []}) == 0
    assert await server.note(people, {"detail": {"bucket": {"name": "other"}, "object": {"key": "m/data/a"}}}) == 0
    assert await server.note(people, {"Records": [said, said]}) == 1
    assert await server.note(people, {"Records": [said]}) == 1
    connection = await asyncpg.connect(court.settings.database_url.get_secret_value())
    query = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'verify' AND status = 'todo'"
    assert await connection.fetchval(query) == 1
    await connection.close()
    await verifying(court, Watched()).look()
    assert (await verification(court, promotion)).message == "changed: data/a"
