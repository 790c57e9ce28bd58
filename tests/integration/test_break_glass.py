"""Moving an alias at once, and looking at it afterwards: over HTTP, on the real MLflow, with a clock that may move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.domain.access import Principal, PrincipalKind
from app.domain.errors import Conflict, Forbidden, InvalidInput, NotAnApprover, NotFound, SelfApproval
from app.domain.identity import Credential, CredentialKind
from app.domain.promotions import AliasKey, Kind, Promotion, State
from app.main import describe
from app.services.promotions import Wanted
from app.services.reviews import Reviews
from tests.conftest import database_of
from tests.governing import Court, open_court
from tests.issuer import Issuer
from tests.platform import MlflowServer

PATH = "/control/v1/models/{model}/aliases/production/break-glass"


@dataclass
class Scene:
    """The court, and its HTTP side."""

    court: Court
    http: httpx.AsyncClient
    issuer: Issuer

    @property
    def reviews(self) -> Reviews:
        return self.court.gateway.services.reviews

    def rae(self, *groups: str, name: str = "rae", kind: PrincipalKind = PrincipalKind.PERSON) -> Principal:
        """Responds to incidents, and has just signed in."""
        who = self.court.person(name, "responders", *groups, kind=kind)
        return replace(who, credential=Credential(CredentialKind.SESSION, authenticated_at=self.court.clock.now()))

    async def break_glass(self, model: str, version: str = "2", **more: Any) -> tuple[Promotion, bool]:
        by = more.pop("by", None) or self.rae()
        wanted = Wanted(AliasKey("default", model, "production"), version, more.pop("reason", "it is down"))
        return await self.court.promotions.break_glass(by, wanted, **more)

    async def broken(self, model: str, version: str = "2", **more: Any) -> Promotion:
        """Glass that was broken, with the alias moved."""
        promotion, _ = await self.break_glass(model, version, **more)
        done = await self.court.work(promotion)
        assert done.state is State.APPLIED, done.state_reason
        return done

    async def post(self, model: str, *groups: str, **claims: object) -> httpx.Response:
        """The same with a token of the provider."""
        body = {"version": "2", "reason": "it is down"} | dict(claims.pop("body", {}))  # type: ignore[call-overload]
        token = self.issuer.token("rae", groups=[*groups], **claims)
        headers = {"Authorization": f"Bearer {token}"}
        return await self.http.post(PATH.format(model=model), json=body, headers=headers)

    @property
    def now(self) -> int:
        return int(self.court.clock.now().timestamp())


@pytest.fixture(scope="module")
async def scene(
    postgres: Callable[[str], str], template_database: str, mlflow_server: MlflowServer, issuer: Issuer
) -> AsyncIterator[Scene]:
    with database_of(postgres, template_database) as url:
        async with open_court(url, mlflow_server, issuer) as court:
            app = describe()
            app.state.services = court.gateway.services
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                yield Scene(court, http, issuer)


@pytest.fixture(scope="module")
async def guarded(scene: Scene) -> str:
    """A model whose alias nobody moves: for refusals."""
    model = scene.court.model()
    await scene.court.policy(models=model)
    return model


# Who may.


@pytest.mark.parametrize("groups", [("administrators",), ("approvers",), ("scientists",), ("viewers",), ()])
async def test_no_other_role_breaks_the_glass(scene: Scene, guarded: str, groups: tuple[str, ...]) -> None:
    refused = await scene.post(guarded, *groups, auth_time=scene.now)
    assert refused.status_code == 403
    assert "promotions:break-glass" in refused.json()["detail"]
    assert scene.court.mlflow.holder(guarded) is None


@pytest.mark.parametrize(
    "claims",
    [
        {},
        {"auth_time": -400},
        {"auth_time": 10**6},
        {"auth_time": 90},
        {"auth_time": -400, "acr": "urn:mfa"},
    ],
    ids=["unknown", "old", "far in the future", "in the future", "strong and old"],
)
async def test_a_sign_in_that_is_not_fresh_is_challenged_as_rfc_9470_says(
    scene: Scene, guarded: str, claims: dict[str, Any]
) -> None:
    if "auth_time" in claims:
        claims = claims | {"auth_time": scene.now + claims["auth_time"]}
    refused = await scene.post(guarded, "responders", **claims)
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/problem+json"
    challenge = refused.headers["www-authenticate"]
    assert 'error="insufficient_user_authentication"' in challenge
    assert 'max_age="300"' in challenge
    said = refused.json()
    assert said["type"] == "urn:countersign:problem:insufficient-authentication"
    assert said["sign_in"].endswith("/auth/sign-in?max_age=300")
    page = await scene.http.get(
        "/auth/sign-in?max_age=300", headers={"Host": httpx.URL(said["sign_in"]).netloc.decode()}
    )
    assert page.status_code == 200
    async with scene.court.database.unit_of_work() as work:
        denied = await work.audit.page(object_id=f"POST {PATH.format(model=guarded)}", limit=500)
    assert "insufficient-authentication" in {entry.document["details"]["problem"] for entry in denied}


async def test_the_policy_may_ask_for_a_stronger_sign_in(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model, breakGlass={"acr": ["urn:mfa"], "freshWithin": "1m"})
    refused = await scene.post(model, "responders", auth_time=scene.now, acr="urn:password")
    assert refused.status_code == 401
    assert refused.json()["sign_in"].endswith("?max_age=60&acr_values=urn%3Amfa")
    assert 'acr_values="urn:mfa"' in refused.headers["www-authenticate"]
    done = await scene.post(model, "responders", auth_time=scene.now, acr="urn:mfa", body={"ticket": "INC-42"})
    assert done.status_code == 201, done.text
    assert (done.json()["kind"], done.json()["reason"]) == ("break_glass", "INC-42: it is down")


@pytest.mark.parametrize("body", [{"reason": ""}, {"reason": " \n"}, {"version": "x"}, {"because": "x"}])
async def test_what_is_sent_must_be_right(scene: Scene, guarded: str, body: dict[str, str]) -> None:
    assert (await scene.post(guarded, "responders", auth_time=scene.now, body=body)).status_code == 400


async def test_a_token_that_was_given_less_does_not_break_the_glass(scene: Scene, guarded: str) -> None:
    refused = await scene.post(guarded, "responders", auth_time=scene.now, scope="countersign:promote")
    assert refused.json()["type"].endswith(":insufficient-scope")


async def test_neither_a_service_nor_anybody_where_the_policy_forbids_it_or_there_is_none(scene: Scene) -> None:
    forbidden, free = scene.court.model(), scene.court.model()
    await scene.court.policy(models=forbidden, breakGlass={"allowed": False})
    with pytest.raises(Forbidden, match="does not allow"):
        await scene.break_glass(forbidden)
    with pytest.raises(NotFound, match="No policy"):
        await scene.break_glass(free)
    open_to_it = scene.court.model()
    await scene.court.policy(models=open_to_it)
    with pytest.raises(Forbidden, match="service"):
        await scene.break_glass(open_to_it, by=scene.rae(kind=PrincipalKind.SERVICE))


async def test_a_sign_in_is_too_old_when_the_clock_has_gone_on_or_back(scene: Scene, guarded: str) -> None:
    asking, before = scene.rae(), scene.court.clock.ahead
    for jump in (timedelta(minutes=6), timedelta(minutes=-6)):
        scene.court.clock.ahead = before + jump
        try:
            with pytest.raises(Forbidden, match="You proved who you are at"):
                await scene.break_glass(guarded, by=asking)
        finally:
            scene.court.clock.ahead = before


# What it does.


async def test_it_moves_the_alias_past_every_rule_and_raises_an_alarm(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(
        models=model,
        after=["staging"],
        checks=[{"name": "ci", "posted": {}}],
        windows=[scene.court.window(effect="deny", hours=(-1, 1))],
    )
    waits = await scene.court.ask(model, "2")
    broken = await scene.broken(model, "2")
    assert scene.court.mlflow.holder(model) == "2"
    assert (await scene.court.get(waits)).state_reason == f"superseded by {broken.id}"
    assert (broken.kind, broken.digest is not None) == (Kind.BREAK_GLASS, True)
    assert await scene.court.audit(broken) == [
        "promotion.requested", "alias.glass_broken", "promotion.approved", "promotion.applying", "promotion.applied",
    ]  # fmt: skip
    alarm = next(event for event in await scene.court.events(broken) if event["type"] == "alias.glass_broken")
    assert (alarm["by"], alarm["comment"]) == ("Rae", "it is down")


async def test_it_is_opened_once_however_often_it_is_asked_for(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    both = await asyncio.gather(*(scene.break_glass(model) for _ in range(4)))
    assert len({promotion.id for promotion, _ in both}) == 1
    assert [is_new for _, is_new in both].count(True) == 1
    done = await scene.court.work(both[0][0])
    assert await scene.break_glass(model) == (done, False)


async def test_the_same_key_neither_breaks_it_again_nor_rolls_back_twice(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    await scene.court.promoted(model, "1")
    broken = await scene.broken(model, "2", idempotency_key="k")
    asked = {"model": model, "alias": "production", "idempotency_key": "k"}
    back, _ = await scene.court.promotions.roll_back(scene.rae(), **asked)
    assert (await scene.court.work(back)).state is State.APPLIED
    again, is_new = await scene.break_glass(model, "2", idempotency_key="k")
    assert (again.id, is_new) == (broken.id, False)
    once_more, is_new = await scene.court.promotions.roll_back(scene.rae(), **asked)
    assert (once_more.id, is_new) == (back.id, False)
    assert scene.court.mlflow.holder(model) == "1"


async def test_what_changed_meanwhile_is_not_applied_in_a_hurry_either(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    promotion, _ = await scene.break_glass(model)
    (scene.court.mlflow.folder_of(model, "2") / "weights" / "model.bin").write_bytes(b"other")
    assert (await scene.court.work(promotion)).state is State.STALE
    assert scene.court.mlflow.holder(model) is None
    with pytest.raises(NotFound):
        await scene.reviews.get(scene.court.bob, promotion.id)


async def test_an_alias_that_moved_is_reviewed_also_when_the_rest_failed(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    await scene.court.promoted(model, "1")
    promotion, _ = await scene.break_glass(model)
    begun = await scene.court.worker.advancing._begin(promotion)  # where a crash is to be
    assert begun.state is State.APPLYING
    # The alias was set, the worker died, somebody changed the bytes, and what it would be put back to is gone.
    scene.court.mlflow.call("POST", "registered-models/alias", {"name": model, "alias": "production", "version": "2"})
    (scene.court.mlflow.folder_of(model, "2") / "weights" / "model.bin").write_bytes(b"other")
    scene.court.mlflow.call("DELETE", "model-versions/delete", {"name": model, "version": "1"})
    assert (await scene.court.work(promotion)).state is State.FAILED
    assert (await scene.reviews.get(scene.court.bob, promotion.id)).closed_at is None


async def test_an_ordinary_promotion_does_not_take_the_place_of_what_goes_fast(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    fast, _ = await scene.break_glass(model, "2")
    with pytest.raises(Conflict, match="does not take its place"):
        await scene.court.ask(model, "1")
    assert (await scene.court.work(fast)).state is State.APPLIED


async def test_it_does_not_wait_for_the_approvals_of_a_rollback(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model, rollback={"approvals": [{"name": "risk", "groups": ["risk"]}]})
    await scene.court.promoted(model, "1")
    await scene.court.promoted(model, "2")
    slow, _ = await scene.court.promotions.roll_back(scene.rae(), model=model, alias="production")
    assert slow.state is State.PENDING
    fast = await scene.broken(model, "1")
    assert (fast.id != slow.id, scene.court.mlflow.holder(model)) == (True, "1")
    assert (await scene.court.get(slow)).state is State.SUPERSEDED


async def test_who_broke_the_glass_may_take_it_back_before_it_is_applied(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    asked = await scene.post(model, "responders", auth_time=scene.now)
    token = scene.issuer.token("rae", groups=["responders"])
    answer = await scene.http.post(
        f"/control/v1/promotions/{asked.json()['id']}/withdraw", headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.json()["state"] == "withdrawn", answer.text


# The review.


async def test_ordinary_promotions_wait_until_another_person_has_closed_the_review(scene: Scene) -> None:
    model = scene.court.model(versions=3)
    await scene.court.policy(models=model)
    await scene.court.promoted(model, "1")
    broken = await scene.broken(model, "2", by=scene.rae("approvers"))
    asked = await scene.court.approve(await scene.court.ask(model, "3"))
    assert (await scene.court.work(asked)).state is State.PENDING
    statuses, _ = await scene.court.promotions.standing(asked)
    assert any(status.rule == "review" and broken.id in status.message for status in statuses)
    service = scene.court.person("robot", "approvers", kind=PrincipalKind.SERVICE)
    for who, refusal in [
        (scene.rae("approvers"), SelfApproval),
        (scene.rae(), SelfApproval),
        (service, NotAnApprover),
        (scene.court.person("vic", "viewers"), Forbidden),
        (scene.court.ada, Forbidden),
        (scene.court.person("root", "administrators"), Forbidden),
        (scene.court.person("stranger"), NotFound),
    ]:
        with pytest.raises(refusal):
            await scene.reviews.close(who, broken.id, comment="fine")
    with pytest.raises(InvalidInput):
        await scene.reviews.close(scene.court.bob, broken.id, comment=" ")
    closed = await scene.reviews.close(scene.court.bob, broken.id, comment="it was right")
    assert (closed.closed_by_name, closed.comment, closed.broken_by_name) == ("Bob", "it was right", "Rae")
    assert (await scene.court.get(asked)).state is State.APPROVED
    assert (await scene.court.work(asked)).state is State.APPLIED
    assert (await scene.court.audit(broken))[-1] == "alias.review_closed"
    assert (await scene.court.events(broken))[-1]["type"] == "alias.review_closed"


async def test_a_review_is_closed_once(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model, breakGlass={"review": [{"name": "risk", "groups": ["risk"]}]})
    broken = await scene.broken(model)
    with pytest.raises(NotAnApprover, match="risk"):
        await scene.reviews.close(scene.court.bob, broken.id, comment="fine")
    closed = await scene.reviews.close(scene.court.cem, broken.id, comment="fine")
    assert await scene.reviews.close(scene.court.cem, broken.id, comment="fine") == closed
    with pytest.raises(Conflict, match="Cem has closed"):
        await scene.reviews.close(scene.court.person("eve", "risk"), broken.id, comment="me too")


async def test_of_two_who_close_a_review_at_once_one_does(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    broken = await scene.broken(model)
    said = await asyncio.gather(
        *(scene.reviews.close(who, broken.id, comment="fine") for who in (scene.court.bob, scene.court.cem)),
        return_exceptions=True,
    )
    assert sorted(type(each).__name__ for each in said) == ["Conflict", "Review"]
    assert (await scene.court.audit(broken)).count("alias.review_closed") == 1


async def test_an_open_review_holds_up_neither_a_rollback_nor_more_broken_glass(scene: Scene) -> None:
    model = scene.court.model(versions=3)
    await scene.court.policy(models=model)
    await scene.court.promoted(model, "1")
    first = await scene.broken(model, "2")
    second = await scene.broken(model, "3")
    back, _ = await scene.court.promotions.roll_back(scene.rae(), model=model, alias="production")
    assert (await scene.court.work(back)).state is State.APPLIED
    still = [await scene.reviews.get(scene.court.bob, each.id) for each in (first, second)]
    assert [review.closed_at for review in still] == [None, None]


async def test_reviews_are_listed_to_who_may_read_the_alias(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    broken = await scene.broken(model)
    token = scene.issuer.token("bob", groups=["approvers"])
    bearer = {"Authorization": f"Bearer {token}"}
    listed = await scene.http.get("/control/v1/reviews", params={"open": "true", "limit": 1}, headers=bearer)
    assert [item["promotion_id"] for item in listed.json()["items"]] == [broken.id]
    cursor = listed.json()["next_cursor"]
    more = await scene.http.get("/control/v1/reviews", params={"open": "true", "cursor": cursor}, headers=bearer)
    assert broken.id not in {item["promotion_id"] for item in more.json()["items"]}
    address = f"/control/v1/promotions/{broken.id}/review"
    assert (await scene.http.get(address, headers=bearer)).json()["open"] is True
    closed = await scene.http.post(address, json={"comment": "right"}, headers=bearer)
    assert (closed.json()["open"], closed.json()["closed_by"]["name"]) == (False, "bob")
    left = await scene.http.get("/control/v1/reviews", params={"open": "true"}, headers=bearer)
    assert broken.id not in {item["promotion_id"] for item in left.json()["items"]}
    assert (await scene.http.post(address, json={}, headers=bearer)).status_code == 400
    stranger = {"Authorization": f"Bearer {scene.issuer.token('nobody')}"}
    for method, path in (("GET", "/control/v1/reviews"), ("GET", address), ("POST", address)):
        assert (await scene.http.request(method, path, headers=stranger)).status_code == 403


# Comments.


async def test_who_takes_part_comments_once_for_a_key_and_nobody_changes_it(scene: Scene) -> None:
    model = scene.court.model()
    await scene.court.policy(models=model)
    asked = await scene.court.ask(model)
    address = f"/control/v1/promotions/{asked.id}/comments"

    async def say(who: str, group: str, text: str, **headers: str) -> httpx.Response:
        bearer = {"Authorization": f"Bearer {scene.issuer.token(who, groups=[group])}"}
        return await scene.http.post(address, json={"text": text}, headers=bearer | headers)

    first = await say("bob", "approvers", "which data?", **{"Idempotency-Key": "1"})
    again = await say("bob", "approvers", "which data?", **{"Idempotency-Key": "1"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert (await say("bob", "approvers", "another", **{"Idempotency-Key": "1"})).status_code == 409
    assert (await say("ada", "scientists", "of May")).status_code == 201
    assert (await say("ada", "scientists", "x" * 2001)).status_code == 400
    assert (await say("ada", "scientists", "  ")).status_code == 400
    assert (await say("vic", "viewers", "may I?")).status_code == 403
    assert (await say("root", "administrators", "may I?")).status_code == 403
    assert (await say("nobody", "none", "may I?")).status_code == 403
    bearer = {"Authorization": f"Bearer {scene.issuer.token('vic', groups=['viewers'])}"}
    page = (await scene.http.get(address, params={"limit": 1}, headers=bearer)).json()
    rest = (await scene.http.get(address, params={"cursor": page["next_cursor"]}, headers=bearer)).json()
    assert [item["text"] for item in page["items"] + rest["items"]] == ["which data?", "of May"]
    assert [item for item in await scene.court.audit(asked) if item == "promotion.commented"] != []
    assert (await scene.court.events(asked))[-1]["comment"] == "of May"
    assert (await scene.http.get("/control/v1/promotions/prm_x/comments", headers=bearer)).status_code == 404
