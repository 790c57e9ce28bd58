"""Attacks on the second signature: by who asks, who approves, who may write to MLflow, and who sends nonsense."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.adapters.object_store import ObjectStores
from app.adapters.postgres.comments import Comment
from app.domain.assessing import RuleStatus, Standing
from app.domain.checks import Posting, Verdict
from app.domain.digests import FileDigest, StoredFile
from app.domain.errors import InsufficientScope
from app.domain.history import Held
from app.domain.identity import Credential, CredentialKind, PrincipalKind, Scope
from app.domain.promotions import State
from app.main import describe
from app.routers.console.promotions import MOST_COMMENTS
from app.services import evidence
from app.services.measuring import AT_ONCE, Measuring
from app.services.promotions import Wanted
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer


@dataclass
class Bench:
    """The court, and its HTTP side."""

    court: Court
    http: httpx.AsyncClient
    issuer: Issuer

    async def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        """By somebody who may ask, approve and break glass."""
        token = self.issuer.token("mallory", groups=["scientists", "approvers", "responders"])
        headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
        return await self.http.request(method, f"/control/v1{path}", headers=headers, **more)


@pytest.fixture(scope="module")
async def bench(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Bench]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            app = describe()
            app.state.services = court.gateway.services
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                yield Bench(court, http, issuer)


@pytest.fixture
def court(bench: Bench) -> Court:
    return bench.court


# Approvals.


async def test_who_may_not_decide_any_more_does_not_count_though_the_policy_names_a_group_they_are_in(
    court: Court,
) -> None:
    model = court.model(versions=1)
    await court.policy(models=model, approvals=[{"name": "risk", "groups": ["officers"]}])
    asked = await court.ask(model)
    assert (await court.approve(asked, court.person("dan", "approvers", "officers"))).state is State.APPROVED
    async with court.database.unit_of_work() as work:
        await work.principals.vouch(court.person("dan", "officers").identity, at=court.clock.now())
        await work.commit()
    waiting = await court.work(asked)
    assert waiting.state is State.PENDING
    statuses, _ = await court.promotions.standing(waiting)
    assert any("Dan's no longer counts: may not decide on it any more" in each.message for each in statuses)
    assert court.mlflow.holder(model) is None


async def test_what_somebody_saw_of_another_promotion_is_not_what_they_decide_on(bench: Bench) -> None:
    model = bench.court.model(versions=1)
    await bench.court.policy(models=model)
    asked = await bench.court.ask(model)
    for tag in (f'"prm_another.{asked.revision}"', f'"{asked.revision}"', "*"):
        refused = await bench.send("POST", f"/promotions/{asked.id}/approve", json={}, headers={"If-Match": tag})
        assert refused.status_code == 412, tag
    tag = f'"{asked.id}.{asked.revision}"'
    approved = await bench.send("POST", f"/promotions/{asked.id}/approve", json={}, headers={"If-Match": tag})
    assert approved.status_code == 200


async def test_a_token_with_which_nobody_asks_takes_nothing_back_either(court: Court) -> None:
    model = court.model(versions=1)
    await court.policy(models=model)
    asked = await court.ask(model)
    approving = replace(court.ada, credential=Credential(CredentialKind.PERSONAL, scopes=frozenset({Scope.APPROVE})))
    with pytest.raises(InsufficientScope, match="promote"):
        await court.promotions.withdraw(approving, asked.id)
    promoting = replace(court.ada, credential=Credential(CredentialKind.PERSONAL, scopes=frozenset({Scope.PROMOTE})))
    assert (await court.promotions.withdraw(promoting, asked.id)).state is State.WITHDRAWN


async def test_a_warning_is_not_buried_under_comments_on_the_page_where_people_decide(bench: Bench) -> None:
    model = bench.court.model(versions=1)
    await bench.court.policy(models=model)
    asked = await bench.court.ask(model)
    now = bench.court.clock.now()
    async with bench.court.database.unit_of_work() as work:
        for number in range(MOST_COMMENTS + 1):
            await work.comments.add(
                Comment(f"cmt_{number:04}-{asked.id}", asked.id, "mallory", "Mallory", "noise", now)
            )
        await work.commit()
    warned = await bench.send("POST", f"/promotions/{asked.id}/comments", json={"text": "Do not: the labels leaked."})
    assert warned.status_code == 201
    token = bench.issuer.token("bob", groups=["approvers"])
    page = await bench.http.get(f"/console/promotions/{asked.id}", headers={"Authorization": f"Bearer {token}"})
    assert "Do not: the labels leaked." in page.text


# Facts.


async def test_a_tag_cannot_be_hidden_behind_others(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "_MOST_ENTRIES", 3)
    model = court.model(versions=1)
    await court.policy(models=model, checks=[{"name": "sound", "expression": '!("recalled" in candidate.tags)'}])
    court.tag(model, "1", recalled="yes", a="", b="", c="")
    asked = await court.ask(model)
    assert (await court.approve(asked)).state is State.PENDING
    statuses, _ = await court.promotions.standing(asked)
    [check] = [each for each in statuses if each.rule == "check"]
    assert "candidate.tags is not known" in check.message


async def test_a_pickle_cannot_be_hidden_among_files_that_nobody_looks_into(
    court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "_MOST_LOOKED_INTO", 1)
    model = court.model(versions=1)
    (court.mlflow.folder_of(model, "1") / "small.bin").write_bytes(b"\x80\x04.")
    await court.policy(models=model, checks=[{"name": "no code", "expression": "!candidate.has_pickle"}])
    asked = await court.ask(model)
    assert (await court.approve(asked)).state is State.PENDING


async def test_who_moves_an_alias_past_the_gateway_and_back_starts_the_soak_anew_and_stops_it_for_nobody(
    court: Court,
) -> None:
    model = court.model()
    await court.policy(models=model, soak={"alias": "staging", "for": "1h"})
    await court.policy(models=model, name=f"{model}-staging", alias="staging", autoApprove=True)
    put = await court.promoted(model, "1", "staging")

    async def soak(version: str) -> RuleStatus:
        _, statuses = await court.promotions.explain(court.ada, Wanted(replace(put.key, alias="production"), version))
        return next(each for each in statuses if each.rule == "soak")

    for version, standing in (("2", Standing.BLOCKED), ("1", Standing.WAITING)):
        now = court.clock.now()
        drifted = Held(put.key, version, since=now, cause="drift", model_created_at=put.model_created_at)
        async with court.database.unit_of_work() as work:
            assert await work.history.add(drifted)
            await work.commit()
        status = await soak(version)
        assert status.standing is standing
    assert status.until == now + timedelta(hours=1)


# Verdicts.


async def test_nobody_buries_the_verdict_of_another_however_often_they_post(court: Court) -> None:
    model = court.model(versions=1)
    await court.policy(models=model, checks=[{"name": "scan", "posted": {"by": {"groups": ["ci"]}}}])
    asked = await court.ask(model)
    scanner = court.person("scanner", "scientists", "ci")
    found = await court.gateway.services.checks.post_on_promotion(scanner, asked.id, Posting("scan", Verdict.FAIL))
    async with court.database.unit_of_work() as work:
        for number in range(600):
            noise = replace(
                found, id=f"chk_{number}-{asked.id}", outcome="pass", posted_by="mallory", groups=frozenset()
            )
            await work.checks.add(noise)
        await work.commit()
    statuses, _ = await court.promotions.standing(asked)
    assert [each.standing for each in statuses if each.rule == "check"] == [Standing.BLOCKED]


async def test_the_yes_of_a_pipeline_that_was_disabled_does_not_count_and_its_no_does(court: Court) -> None:
    for outcome, standing in ((Verdict.PASS, Standing.WAITING), (Verdict.FAIL, Standing.BLOCKED)):
        model = court.model(versions=1)
        await court.policy(models=model, checks=[{"name": "scan", "posted": {}}])
        asked = await court.ask(model)
        stolen = court.person(f"stolen-{outcome}", "scientists", kind=PrincipalKind.SERVICE)
        await court.gateway.services.checks.post_on_promotion(stolen, asked.id, Posting("scan", outcome))
        assert (await court.approve(asked)).state is (State.APPROVED if outcome is Verdict.PASS else State.PENDING)
        root = court.person("root", "administrators")
        await court.gateway.services.principals.disable(root, stolen.id)
        assert (await court.work(asked)).state is State.PENDING
        statuses, _ = await court.promotions.standing(asked)
        assert [each.standing for each in statuses if each.rule == "check"] == [standing]


# Costs.


class CountingStores(ObjectStores):
    """Artifacts on this machine; counts how many are read at the same time."""

    now = most = 0

    async def digests(
        self, uri: str, files: Sequence[StoredFile], progress: Callable[[int], None]
    ) -> AsyncGenerator[FileDigest]:
        self.now += 1
        self.most = max(self.most, self.now)
        async with aclosing(super().digests(uri, files, progress)) as found:
            async for each in found:
                yield each
        self.now -= 1


async def test_who_asks_often_what_would_be_does_not_have_everything_read_at_once(court: Court) -> None:
    model = court.model(versions=1)
    uri = court.mlflow.folder_of(model, "1").as_uri() + "/"
    store = CountingStores()
    measuring = Measuring(court.database.unit_of_work, store, court.clock, topic_of=str)
    measured = await asyncio.gather(*(measuring.measure_now(uri, 1024) for _ in range(4 * AT_ONCE)))
    assert None not in measured
    assert store.most == AT_ONCE


# Nonsense.

EARLY, LATE = "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"


def _cursor(*parts: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


@pytest.mark.parametrize("moment", [EARLY, LATE])
async def test_a_time_that_utc_has_no_year_for_is_refused(bench: Bench, moment: str) -> None:
    model = bench.court.model(versions=1)
    await bench.court.policy(models=model)
    asked = await bench.court.ask(model)
    wanted = {"model": model, "alias": "production", "version": "1"}
    alias, comments = f"/models/{model}/aliases/production", f"/promotions/{asked.id}/comments"
    sent: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/promotions", {"json": {**wanted, "scheduled_for": moment}}),
        ("GET", "/promotions/explain", {"params": {**wanted, "scheduled_for": moment}}),
        ("POST", "/delegations", {"json": {"to": "bob", "ends_at": moment}}),
        ("POST", "/delegations", {"json": {"to": "bob", "ends_at": "2100-01-01T00:00Z", "starts_at": moment}}),
        ("GET", alias, {"params": {"at": moment}}),
        ("GET", f"{alias}/history", {"params": {"until": moment}}),
        ("POST", f"/promotions/{asked.id}/checks/scan", {"json": {"outcome": "pass", "expires_at": moment}}),
        *(
            ("GET", path, {"params": {"cursor": _cursor(*place)}})
            for path in ("/promotions", "/drifts", "/reviews", "/delegations", comments)
            for place in ((moment, "x"), ("2026-01-01T00:00:00Z", "\ud800"))
        ),
    ]
    for method, path, more in sent:
        answer = await bench.send(method, path, **more)
        assert answer.status_code == 400, (path, more, answer.text)


async def test_a_number_that_no_row_can_have_is_refused(bench: Bench) -> None:
    token = bench.issuer.token("root", groups=["administrators"])
    for path in ("/audit", "/events"):
        answer = await bench.http.get(
            f"/control/v1{path}", params={"after": 2**63}, headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 400, path
