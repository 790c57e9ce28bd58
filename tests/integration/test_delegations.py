"""Standing in for somebody who is away: who may, whose word it is, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.domain.access import Principal, PrincipalKind
from app.domain.delegations import Delegation
from app.domain.errors import (
    AlreadyDecided,
    Conflict,
    CountersignError,
    Forbidden,
    InsufficientScope,
    InvalidInput,
    NotAnApprover,
    NotFound,
    SelfApproval,
    SelfGrant,
)
from app.domain.grants import Effect, Grant, Reach, Subject
from app.domain.identity import Credential, CredentialKind, Scope
from app.domain.promotions import Outcome, Promotion, State
from app.domain.roles import Role
from app.main import describe
from app.services.delegations import Delegations
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer

WEEK = timedelta(days=7)


class Office(Court):
    """The court, where people are known and go away."""

    @property
    def delegations(self) -> Delegations:
        return self.gateway.services.delegations

    async def known(self, name: str, *groups: str, kind: PrincipalKind = PrincipalKind.PERSON) -> Principal:
        """Somebody who was seen here."""
        who = self.person(name, *groups, kind=kind)
        async with self.database.unit_of_work() as work:
            await work.principals.vouch(who.identity, at=self.clock.now())
            await work.commit()
        return who

    async def disable(self, who: Principal) -> None:
        async with self.database.unit_of_work() as work:
            await work.principals.set_disabled(who.id, at=self.clock.now(), by="an administrator")
            await work.commit()

    async def away(self, who: Principal, to: Principal, **more: Any) -> Delegation:
        made, _ = await self.delegations.create(who, to=to.id, ends_at=self.clock.now() + WEEK, **more)
        return made

    async def asked(self, **policy: Any) -> Promotion:
        model = self.model(versions=1)
        await self.policy(models=model, **policy)
        return await self.ask(model)

    async def decide(self, by: Principal, promotion: Promotion, **more: Any) -> Promotion:
        outcome = more.pop("outcome", Outcome.APPROVE)
        return await self.promotions.decide(by, promotion.id, outcome, **more)


@pytest.fixture(scope="module")
async def office(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Office]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            yield Office(court.gateway, court.worker, court.database, mlflow_server, court.clock, court.settings)


async def test_who_stands_in_decides_with_what_the_other_may(office: Office) -> None:
    bea, dan = await office.known("bea", "approvers", "ml"), await office.known("dan", "viewers")
    asked = await office.asked(approvals=[{"name": "ml", "groups": ["ml"]}])
    with pytest.raises(Forbidden):
        await office.decide(dan, asked)
    made = await office.away(bea, dan, reason="on leave")
    done = await office.decide(dan, asked)
    assert (done.state, done.decisions[0].on_behalf_of) == (State.APPROVED, (bea.id, "Bea"))
    assert (await office.work(asked)).state is State.APPLIED
    async with office.database.unit_of_work() as work:
        log = [entry.document for entry in await work.audit.page(object_id=made.id)]
        decision = [entry.document for entry in await work.audit.page(object_id=asked.id)][1]
    assert [entry["action"] for entry in log] == ["delegation.created"]
    assert (decision["actor"]["id"], decision["details"]["on_behalf_of"]) == (dan.id, "Bea")


async def test_somebody_who_only_ever_came_with_a_token_of_their_provider_can_be_stood_in_for(office: Office) -> None:
    bea, dan = office.person("bea0", "approvers"), await office.known("dan0", "viewers")
    await office.away(bea, dan)
    assert (await office.decide(dan, await office.asked())).state is State.APPROVED


async def test_an_approval_stands_when_the_delegation_has_ended_and_falls_with_the_delegator(office: Office) -> None:
    bea, dan = await office.known("bea2", "approvers"), await office.known("dan2", "viewers")
    stands, falls = await office.asked(), await office.asked()
    made = await office.away(bea, dan)
    await office.decide(dan, stands)
    await office.decide(dan, falls)
    await office.delegations.revoke(bea, made.id)
    assert (await office.work(stands)).state is State.APPLIED
    await office.known("bea2", "viewers")  # left the group
    assert (await office.work(falls)).state is State.PENDING


async def test_neither_before_nor_after_nor_when_revoked_nor_of_other_models(office: Office) -> None:
    bea, dan = await office.known("bea3", "approvers"), await office.known("dan3", "viewers")
    asked, now = await office.asked(), office.clock.now()
    await office.away(bea, dan, models="another-*")
    await office.away(bea, dan, starts_at=now + timedelta(days=1))
    await office.delegations.revoke(dan, (await office.away(bea, dan)).id)
    for named in (None, bea.id, "Bea3"):
        with pytest.raises(Forbidden):
            await office.decide(dan, asked, on_behalf_of=named)
    office.clock.ahead += timedelta(days=1)
    try:
        assert (await office.decide(dan, asked)).state is State.APPROVED
    finally:
        office.clock.ahead -= timedelta(days=1)


async def test_nobody_with_a_hand_in_it_is_stood_in_for_or_stands_in(office: Office) -> None:
    ada, bea = await office.known("ada", "scientists", "approvers"), await office.known("bea4", "approvers")
    dan = await office.known("dan4", "viewers")
    asked = await office.asked()
    await office.away(ada, dan)
    await office.away(bea, ada)
    with pytest.raises(SelfApproval, match="for them"):
        await office.decide(dan, asked, on_behalf_of=ada.id)
    with pytest.raises(Forbidden):
        await office.decide(dan, asked)
    with pytest.raises(SelfApproval):
        await office.decide(ada, asked, on_behalf_of=bea.id)
    assert (await office.get(asked)).decisions == ()


async def test_there_are_no_chains(office: Office) -> None:
    bea, dan = await office.known("bea5", "approvers"), await office.known("dan5", "viewers")
    eve, asked = await office.known("eve5", "viewers"), await office.asked()
    await office.away(bea, dan)
    with pytest.raises(Forbidden):
        await office.away(dan, eve)
    root = await office.known("root5", "administrators")
    await office.away(root, eve, giver=dan.id)
    for named in (None, dan.id, bea.id):
        with pytest.raises(Forbidden):
            await office.decide(eve, asked, on_behalf_of=named)


async def test_one_word_counts_once_whoever_speaks_it(office: Office) -> None:
    bea, dan = await office.known("bea6", "approvers"), await office.known("dan6", "viewers")
    asked = await office.asked(approvals=[{"name": "two", "count": 2, "roles": ["approver"]}])
    await office.away(bea, dan)
    await office.decide(bea, asked)
    with pytest.raises(AlreadyDecided):
        await office.decide(dan, asked)
    other = await office.asked(approvals=[{"name": "two", "count": 2, "roles": ["approver"]}])
    await office.decide(dan, other)
    with pytest.raises(AlreadyDecided):
        await office.decide(bea, other)
    assert (await office.decide(dan, other, outcome=Outcome.REJECT)).state is State.REJECTED


async def test_who_could_be_meant_must_be_said_where_there_are_several(office: Office) -> None:
    bea, cem = await office.known("bea7", "approvers"), await office.known("cem7", "approvers")
    dan, asked = await office.known("dan7", "viewers"), await office.asked()
    await office.away(bea, dan)
    await office.away(cem, dan)
    with pytest.raises(InvalidInput, match=f"{bea.id}.* or .*{cem.id}"):
        await office.decide(dan, asked)
    done = await office.decide(dan, asked, on_behalf_of="Cem7")
    assert done.decisions[0].on_behalf_of == (cem.id, "Cem7")


async def test_who_can_decide_alone_does_so_unless_they_say_otherwise(office: Office) -> None:
    bea, cem = await office.known("bea8", "approvers"), await office.known("cem8", "approvers")
    await office.away(bea, cem)
    own, others = await office.asked(), await office.asked()
    assert (await office.decide(cem, own)).decisions[0].on_behalf_of is None
    assert (await office.decide(cem, others, on_behalf_of=bea.id)).decisions[0].authority == bea.id


async def test_who_was_disabled_or_denied_takes_no_part(office: Office) -> None:
    bea, dan = await office.known("bea9", "approvers"), await office.known("dan9", "viewers")
    asked = await office.asked()
    await office.away(bea, dan)
    no_approver = Grant("no", Role.APPROVER, Subject(person=dan.id), Reach(), Effect.DENY)
    denied = replace(dan, access=type(dan.access)([*dan.access.grants, no_approver], owner_id=dan.id))
    for named in (None, bea.id):
        with pytest.raises(Forbidden):
            await office.decide(denied, asked, on_behalf_of=named)
    await office.known("bea9", "viewers")
    with pytest.raises(Forbidden, match="may not decide"):
        await office.decide(dan, asked, on_behalf_of=bea.id)
    await office.known("bea9", "approvers")
    await office.disable(bea)
    with pytest.raises(Forbidden, match="disabled"):
        await office.decide(dan, asked, on_behalf_of=bea.id)
    with pytest.raises(Forbidden):
        await office.decide(dan, asked)


async def test_the_other_must_be_named_by_the_policy(office: Office) -> None:
    bea, dan = await office.known("bea10", "approvers"), await office.known("dan10", "viewers")
    asked = await office.asked(approvals=[{"name": "risk", "groups": ["risk"]}])
    await office.away(bea, dan)
    with pytest.raises(NotAnApprover):
        await office.decide(dan, asked, on_behalf_of=bea.id)
    with pytest.raises(Forbidden):
        await office.decide(dan, asked)


async def test_a_token_that_is_not_for_deciding_does_not_stand_in_or_delegate(office: Office) -> None:
    bea, dan = await office.known("bea11", "approvers"), await office.known("dan11", "viewers")
    asked, made = await office.asked(), await office.away(bea, dan)
    limited = Credential(CredentialKind.PERSONAL, scopes=frozenset({Scope.PROMOTE}))
    with pytest.raises(InsufficientScope):
        await office.decide(replace(dan, credential=limited), asked)
    with pytest.raises(InsufficientScope):
        await office.away(replace(bea, credential=limited), dan)
    with pytest.raises(InsufficientScope):
        await office.delegations.revoke(replace(bea, credential=limited), made.id)


@pytest.mark.parametrize(
    ("who", "changed", "refusal"),
    [
        ("viewer", {}, Forbidden),
        ("service", {}, Forbidden),
        ("approver", {"to": "nobody"}, InvalidInput),
        ("approver", {"to": "Twin"}, InvalidInput),
        ("approver", {"to": "Ci12"}, InvalidInput),
        ("approver", {"to": "Bea12"}, InvalidInput),
        ("approver", {"giver": "Dan12"}, Forbidden),
        ("administrator", {"giver": "Bea12", "to": "Root12"}, SelfGrant),
        ("administrator", {"giver": "nobody"}, InvalidInput),
        ("administrator", {}, Forbidden),
    ],
)
async def test_what_may_not_be_delegated(
    office: Office, who: str, changed: dict[str, str], refusal: type[CountersignError]
) -> None:
    people = {
        "approver": await office.known("bea12", "approvers"),
        "viewer": await office.known("dan12", "viewers"),
        "administrator": await office.known("root12", "administrators"),
        "service": await office.known("ci12", "approvers", kind=PrincipalKind.SERVICE),
    }
    for subject in ("t1", "t2"):
        twin = replace(office.person(subject).identity, name="Twin")
        async with office.database.unit_of_work() as work:
            await work.principals.vouch(twin, at=office.clock.now())
            await work.commit()
    said = {"to": people["viewer"].id, "ends_at": office.clock.now() + WEEK, **changed}
    with pytest.raises(refusal):
        await office.delegations.create(people[who], **said)  # type: ignore[arg-type]


async def test_nobody_delegates_without_end(office: Office) -> None:
    bea, dan = await office.known("bea13", "approvers"), await office.known("dan13", "viewers")
    for _ in range(20):
        await office.away(bea, dan)
    with pytest.raises(Conflict, match="20 delegations"):
        await office.away(bea, dan)


async def test_over_http_it_is_made_once_listed_to_both_and_revoked(office: Office, issuer: Issuer) -> None:
    app = describe()
    app.state.services = office.gateway.services
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:

        async def call(who: str, group: str, method: str, path: str = "", **options: Any) -> httpx.Response:
            headers = {"Authorization": f"Bearer {issuer.token(who, groups=[group])}", **options.pop("headers", {})}
            return await http.request(method, f"/control/v1/delegations{path}", headers=headers, **options)

        async with office.database.unit_of_work() as work:
            for name, group in (("zoe", "approvers"), ("yan", "viewers")):
                identity = replace(office.person(name, group).identity, issuer=issuer.url, name=name)
                await work.principals.vouch(identity, at=office.clock.now())
            await work.commit()
        ends = (office.clock.now() + WEEK).isoformat()
        body = {"to": "yan", "ends_at": ends, "reason": "on leave"}
        key = {"Idempotency-Key": "once"}
        first = await call("zoe", "approvers", "POST", json=body, headers=key)
        again = await call("zoe", "approvers", "POST", json=body, headers=key)
        assert (first.status_code, again.status_code) == (201, 200), first.text
        assert first.json() == again.json()
        other = await call("zoe", "approvers", "POST", json=body | {"models": "a"}, headers=key)
        assert other.status_code == 409
        made = first.json()
        assert (made["delegator"]["name"], made["delegate"]["name"], made["models"]) == ("zoe", "yan", "*")
        for who, group in (("zoe", "approvers"), ("yan", "viewers")):
            listed = await call(who, group, "GET", params={"active": "true"})
            assert [item["id"] for item in listed.json()["items"]] == [made["id"]]
        assert (await call("vic", "viewers", "GET")).json()["items"] == []
        assert (await call("vic", "viewers", "GET", params={"all": "true"})).status_code == 403
        everybodys = await call("root", "administrators", "GET", params={"all": "true", "limit": 1})
        assert [item["id"] for item in everybodys.json()["items"]] == [made["id"]]
        assert everybodys.json()["next_cursor"]
        assert (await call("vic", "viewers", "DELETE", f"/{made['id']}")).status_code == 404
        assert (await call("nobody", "none", "DELETE", f"/{made['id']}")).status_code == 403
        assert (await call("root", "administrators", "DELETE", f"/{made['id']}")).status_code == 204
        assert (await call("zoe", "approvers", "DELETE", f"/{made['id']}")).status_code == 204
        left = await call("zoe", "approvers", "GET", params={"active": "true"})
        assert left.json()["items"] == []
        asked = await office.asked()
        answer = await http.post(
            f"/control/v1/promotions/{asked.id}/approve",
            json={"on_behalf_of": "zoe"},
            headers={"Authorization": f"Bearer {issuer.token('yan', groups=['viewers'])}"},
        )
        assert answer.status_code == 403
        with pytest.raises(NotFound):
            await office.delegations.revoke(office.person("vic"), "dlg_none")
