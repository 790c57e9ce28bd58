"""Two gateways and two workers on one database, and people who do at once what cannot all be: one of them was first."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import pytest

from app.adapters.postgres.unit_of_work import Database
from app.domain.policies import policy_from_document
from app.domain.promotions import MOVES, State
from tests.conftest import database_of
from tests.door import MovableClock
from tests.issuer import Issuer
from tests.platform import PATIENCE_S, Countersign, MlflowServer, free_port, new_countersign

PEOPLE = [f"person-{number}" for number in range(10)]
SETTLED = {"applied", "rejected", "withdrawn", "superseded", "stale", "rolled_back"}


@dataclass
class Site:
    """Callers who go to one gateway and the other in turn."""

    countersign: Countersign
    mlflow: MlflowServer
    database: Database
    gateways: list[httpx.AsyncClient]
    _turns: itertools.count[int] = field(default_factory=itertools.count)
    _models: itertools.count[int] = field(default_factory=itertools.count)

    async def call(self, who: str, method: str, path: str, **body: Any) -> httpx.Response:
        group = "scientists" if who.startswith("asker") else "approvers"
        headers = {"Authorization": f"Bearer {self.countersign.issuer.token(who, groups=[group])}"}
        gateway = self.gateways[next(self._turns) % len(self.gateways)]
        return await gateway.request(method, f"/control/v1{path}", headers=headers, json=body or None)

    async def ask(self, model: str, version: str, who: str = "asker") -> httpx.Response:
        return await self.call(who, "POST", "/promotions", model=model, alias="production", version=version)

    async def asked(self, model: str, version: str = "1") -> str:
        return str((await self.ask(model, version)).json()["id"])

    async def approve(self, promotion_id: str, who: str = "person-0") -> httpx.Response:
        return await self.call(who, "POST", f"/promotions/{promotion_id}/approve")

    async def model(self, *, versions: int = 1, count: int = 1) -> str:
        """A new model, whose alias needs so many approvals."""
        name = f"at-once-{next(self._models)}"
        await asyncio.to_thread(self.mlflow.register, name, versions=versions)
        approvals = [{"name": "some", "count": count, "roles": ["approver"]}]
        document = {"kind": "Policy", "name": name, "models": name, "alias": "production", "approvals": approvals}
        async with self.database.unit_of_work() as work:
            await work.policies.add(policy_from_document(document, revision=0), at=MovableClock().now(), by="test")
            await work.commit()
        return name

    async def settled(self, model: str, *ends: str) -> list[dict[str, Any]]:
        """All promotions of a model, oldest first, when none of them is under way any more."""
        ends = ends or tuple(SETTLED)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self.call("person-0", "GET", f"/promotions?model={model}&limit=100")
                found: list[dict[str, Any]] = answer.json()["items"][::-1]
                if all(each["state"] in ends for each in found):
                    return found
                await asyncio.sleep(0.05)

    async def check(self, promotions: list[dict[str, Any]]) -> None:
        """Every move was a legal one, and the log ends with the state that it is in."""
        async with self.database.unit_of_work() as work:
            for promotion in promotions:
                entries = await work.audit.page(object_id=promotion["id"], limit=500)
                states = [State(entry.document["details"]["state"]) for entry in entries]  # type: ignore[index]
                for one, after in itertools.pairwise(states):
                    assert one is after or after in MOVES[one], states
                assert states[-1] == promotion["state"]


@pytest.fixture(scope="module")
async def site(
    postgres: Callable[[str], str],
    template_database: str,
    mlflow_server: MlflowServer,
    issuer: Issuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Site]:
    with (
        database_of(postgres, template_database) as url,
        new_countersign(url, mlflow_server, issuer, tmp_path_factory.mktemp("at-once")) as first,
    ):
        port = str(free_port())
        here = {"COUNTERSIGN_PORT": port, "COUNTERSIGN_PUBLIC_URL": f"http://127.0.0.1:{port}"}
        second = replace(first, environment=first.environment | here)

        async def start(countersign: Countersign, kind: str) -> None:
            await asyncio.to_thread(countersign.start, kind)

        await asyncio.gather(start(first, "gateway"), start(second, "gateway"), start(first, "worker"))
        await start(first, "worker")
        clients = [
            httpx.AsyncClient(base_url=each.url, timeout=PATIENCE_S, trust_env=False) for each in (first, second)
        ]
        database = Database(url)
        yield Site(first, mlflow_server, database, clients)
        await database.close()
        for client in clients:
            await client.aclose()


async def test_of_twenty_approvals_at_once_each_person_counts_once(site: Site) -> None:
    model = await site.model(count=len(PEOPLE))
    asked = await site.asked(model)
    answers = await asyncio.gather(*(site.approve(asked, who) for who in PEOPLE * 2))
    assert Counter(answer.status_code for answer in answers) == {200: len(PEOPLE), 409: len(PEOPLE)}
    assert Counter(answer.json()["state"] for answer in answers if answer.status_code == 200)["approved"] == 1
    (done,) = await site.settled(model)
    assert done["state"] == "applied"
    assert len({each["by"]["id"] for each in done["decisions"]}) == len(done["decisions"]) == len(PEOPLE)
    await site.check([done])


async def test_an_approval_and_a_withdrawal_at_once_are_told_the_same_story(site: Site) -> None:
    model = await site.model()
    for _ in range(3):
        asked = await site.asked(model)
        approved, withdrawn = await asyncio.gather(
            site.approve(asked), site.call("asker", "POST", f"/promotions/{asked}/withdraw")
        )
        done = (await site.settled(model))[-1]
        # Withdrawn after it was approved, before it was approved, or too late.
        assert (approved.status_code, withdrawn.status_code, done["state"]) in {
            (200, 200, "withdrawn"),
            (409, 200, "withdrawn"),
            (200, 409, "applied"),
        }
        if approved.status_code == 409:
            assert approved.json()["state"] == "withdrawn"
        if withdrawn.status_code == 409:
            assert withdrawn.json()["state"] in {"applying", "applied"}
        assert site.mlflow.holder(model) == ("1" if done["state"] == "applied" else None)
        await site.check([done])
        if done["state"] == "applied":
            model = await site.model()


async def test_of_many_versions_that_are_asked_for_at_once_one_is_left(site: Site) -> None:
    model = await site.model(versions=3)
    answers = await asyncio.gather(
        *(site.ask(model, str(number % 3 + 1), f"asker-{number % 2}") for number in range(12))
    )
    assert {answer.status_code for answer in answers} <= {200, 201}
    found = await site.settled(model, "pending", "superseded")
    assert sum(each["state"] == "pending" for each in found) == 1
    assert {answer.json()["id"] for answer in answers} == {each["id"] for each in found}
    assert sum(answer.status_code == 201 for answer in answers) == len(found)
    await site.check(found)


async def test_a_promotion_and_a_rollback_at_once_come_one_after_the_other(site: Site) -> None:
    model = await site.model(versions=3)
    for version in ("1", "2"):
        await site.approve(await site.asked(model, version))
        await site.settled(model)
    for _ in range(2):
        asked = await site.asked(model, "3")
        back = f"/models/{model}/aliases/production/rollback"
        answers = await asyncio.gather(
            site.approve(asked), site.call("person-1", "POST", back), site.call("person-2", "POST", back)
        )
        found = await site.settled(model)
        await site.check(found)
        assert {answer.status_code for answer in answers} <= {200, 201, 404, 409}
        held = (await site.call("person-0", "GET", f"/models/{model}/aliases/production")).json()
        assert held["version"] == site.mlflow.holder(model)
        # The next round has something to go back from, and version 3 to go to.
        if held["version"] != "2":
            await site.approve(await site.asked(model, "2"))
            await site.settled(model)
