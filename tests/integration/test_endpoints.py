"""Endpoints and deliveries for people: registered, seen and repaired, by the API and by the operator's documents."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from app.adapters.postgres.delivery_lanes import Result
from app.adapters.secrets import Secrets
from app.domain.access import Role
from app.domain.deliveries import Attempt, DeliveryState, settled
from app.domain.deployments import Target
from app.domain.differences import Change
from app.domain.endpoints import ReceiverState
from app.domain.errors import InvalidInput
from app.domain.events import EventType
from app.domain.grants import Grant, Subject
from app.domain.promotions import AliasKey
from app.routers import console, deliveries, endpoints
from app.routers.problems import install_problem_handlers
from app.services.deliveries import Deliveries
from app.services.endpoints import Endpoints
from app.services.fanning_out import FanningOut
from app.services.receivers import Receivers
from app.services.recording import emit
from tests.configuring import configuration_of
from tests.door import PUBLIC_URL, Door

WEBHOOK_KEY = "a key for tests, of thirty-two bytes and some"
HOOK = {"url": "https://ci.example/hook?token=t0k3n", "events": ["promotion.*"], "signing": "ed25519"}
HMAC = {**HOOK, "signing": "hmac"}


@dataclass
class Desk:
    """Where people look after endpoints."""

    door: Door
    http: httpx.AsyncClient
    root: Mapping[str, str]
    auditor: Mapping[str, str]
    viewer: Mapping[str, str]
    fanning_out: FanningOut

    async def call(self, method: str, path: str, *, by: Mapping[str, str] | None = None, **more: Any) -> httpx.Response:
        headers = {**(self.root if by is None else by), **more.pop("headers", {})}
        return await self.http.request(method, f"/control/v1{path}", headers=headers, **more)

    async def put(self, name: str, document: Mapping[str, Any] = HOOK, **more: Any) -> httpx.Response:
        return await self.call("PUT", f"/endpoints/{name}", json=document, **more)

    async def happens(self, model: str = "m", kind: EventType = EventType.APPLIED) -> None:
        """An event, given to whoever hears it."""
        async with self.door.database.unit_of_work() as work:
            at = self.door.clock.now()
            emit(work, kind, subject="prm_1", key=AliasKey("default", model, "production"), at=at, known={})
            await work.commit()
        while await self.fanning_out.fan_out():
            pass

    async def deliveries(self, name: str, **sought: str) -> list[dict[str, Any]]:
        found = await self.call("GET", "/deliveries", params={"receiver": f"endpoint:{name}", **sought})
        assert found.status_code == 200, found.text
        return list(found.json()["items"])

    async def attempted(self, delivery_id: str, status: int | None, state: DeliveryState) -> None:
        """As the worker writes it down."""
        async with self.door.database.unit_of_work() as work:
            delivery, now = await work.deliveries.get(delivery_id), self.door.clock.now()
            attempt = Attempt(
                number=1,
                started_at=now,
                duration_ms=12,
                status=status,
                error=None if status else "connection refused",
                response="no such hook",
                address="192.0.2.7",
                request_headers={"webhook-id": delivery.message_id, "webhook-signature": "***"},
                response_headers={"server": "nginx"},
            )
            done = settled(replace(delivery, attempts=1), state, at=now)
            assert await work.delivery_lanes.settle([Result(done, attempt)])
            await work.commit()

    async def apply(self, *documents: object, dry_run: bool = False) -> list[Change]:
        return await configuration_of(self.door.database).apply(documents, dry_run=dry_run)

    async def state(self, name: str) -> ReceiverState:
        async with self.door.database.unit_of_work() as work:
            return (await work.endpoints.get(name)).state


@pytest.fixture(scope="module")
async def desk(door: Door) -> AsyncIterator[Desk]:
    work, clock = door.database.unit_of_work, door.clock
    async with work() as opened:
        grant = Grant("auditors", Role.AUDITOR, Subject(group="auditors"))
        await opened.grants.put(grant, at=clock.now(), by="test")
        opened.forget_callers()
        await opened.commit()
    app, control = FastAPI(), APIRouter(prefix="/control/v1")
    for part in (endpoints, deliveries):
        control.include_router(part.router)
    app.include_router(control)
    app.include_router(console.router)
    install_problem_handlers(app)
    app.state.services = SimpleNamespace(
        **vars(door.services),
        endpoints=Endpoints(work, clock, secrets=Secrets(WEBHOOK_KEY), networks=["10.1.0.0/16"]),
        deliveries=Deliveries(work, clock, public_url=PUBLIC_URL),
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=PUBLIC_URL) as http:
        yield Desk(
            door,
            http,
            root=await door.signed_in("root", groups=("administrators",)),
            auditor=await door.signed_in("aud", groups=("auditors",)),
            viewer=await door.signed_in("vi"),
            fanning_out=FanningOut(work, SimpleNamespace(), clock, public_url=PUBLIC_URL),  # type: ignore[arg-type]  # it does not wait
        )


# Registering.


async def test_an_endpoint_is_made_and_its_shared_secret_is_shown_once(desk: Desk) -> None:
    made = await desk.put("once", HMAC)
    assert made.status_code == 201, made.text
    assert made.headers["cache-control"] == "no-store"
    key = made.json()["key"]
    assert (key["number"], key["signing"], key["public"]) == (1, "hmac", None)
    assert key["secret"].startswith("whsec_")
    again = await desk.put("once", HMAC)
    assert (again.status_code, again.json()["key"]) == (200, None)
    assert again.headers["etag"] == made.headers["etag"]
    read = await desk.call("GET", "/endpoints/once")
    assert read.headers["etag"] == made.headers["etag"]
    keys = await desk.call("GET", "/endpoints/once/keys")
    assert [(each["number"], each["public"]) for each in keys.json()["items"]] == [(1, None)]
    everything = read.text + keys.text + await desk.door.everything_kept()
    assert key["secret"] not in everything
    assert await desk.door.actions("once") == ["endpoint.created"]


async def test_a_public_key_is_everybodys_who_reads_endpoints(desk: Desk) -> None:
    key = (await desk.put("public")).json()["key"]
    assert key["secret"] is None
    assert key["public"].startswith("whpk_")
    keys = await desk.call("GET", "/endpoints/public/keys", by=desk.auditor)
    assert keys.json()["items"][0]["public"] == key["public"]


async def test_everything_that_is_wrong_is_said_at_once(desk: Desk) -> None:
    refused = await desk.put("wrong", {"url": "ftp://x", "events": ["promotion.aplied"], "timeoutSeconds": 99, "x": 1})
    assert refused.status_code == 400
    assert {each["field"] for each in refused.json()["errors"]} == {
        "url",
        "events[0]",
        "timeoutSeconds",
        "x",
        "signing",
    }
    for document in ({**HOOK, "name": "other"}, {**HOOK, "kind": "Target"}, {**HOOK, "description": "\0"}):
        assert (await desk.put("wrong", document)).status_code == 400
    assert (await desk.put("No Name")).status_code == 400
    assert (await desk.call("GET", "/endpoints/wrong")).status_code == 404


@pytest.mark.parametrize(
    "document",
    [
        {"url": HOOK["url"], "secretFile": "/etc/passwd"},
        {"url": HOOK["url"], "secretEnv": "COUNTERSIGN_WEBHOOK_KEY"},
        {"channel": "slack", "urlFile": "/run/secrets/slack"},
        {"channel": "slack", "urlEnv": "SLACK"},
    ],
)
async def test_nobody_names_the_gateways_own_secrets_through_the_api(desk: Desk, document: dict[str, str]) -> None:
    refused = await desk.put("thief", document)
    assert refused.status_code == 400
    assert "countersign apply" in refused.json()["detail"]


async def test_private_networks_are_those_that_the_operator_has_opened(desk: Desk) -> None:
    inside = {**HOOK, "url": "http://10.1.2.3/hook", "allowNetworks": ["10.1.2.0/24"]}
    assert (await desk.put("inside", inside)).status_code == 201
    for network in ("10.0.0.0/8", "private", "192.168.0.0/16"):
        refused = await desk.put("inside", {**inside, "allowNetworks": ["10.1.2.0/24", network]})
        assert refused.status_code == 400
        assert network in refused.json()["detail"]
    assert (await desk.put("metadata", {**HOOK, "url": "http://169.254.169.254/"})).status_code == 400
    cautions = (await desk.put("clear", {**HOOK, "url": "http://ci.example/"})).json()["cautions"]
    assert "https" in cautions[0]


async def test_a_change_names_the_etag_that_it_is_based_on(desk: Desk) -> None:
    first = (await desk.put("tagged")).headers["etag"]
    assert (await desk.put("tagged", headers={"If-None-Match": "*"})).status_code == 412
    assert (await desk.put("tagged", headers={"If-None-Match": "x"})).status_code == 400
    changed = await desk.put("tagged", {**HOOK, "timeoutSeconds": 5}, headers={"If-Match": first})
    assert (changed.status_code, changed.json()["revision"]) == (200, 2)
    for method, path in (("PUT", ""), ("DELETE", ""), ("POST", "/rotate")):
        body = {"json": HOOK} if method == "PUT" else {}
        late = await desk.call(method, f"/endpoints/tagged{path}", headers={"If-Match": first}, **body)
        assert late.status_code == 412, method
    assert (await desk.put("nobody", headers={"If-Match": first})).status_code == 412
    here = {"If-Match": changed.headers["etag"]}
    assert (await desk.call("DELETE", "/endpoints/tagged", headers=here)).status_code == 204
    assert (await desk.call("DELETE", "/endpoints/tagged")).status_code == 404
    made_again = await desk.put("tagged")
    assert made_again.headers["etag"] != first
    assert await desk.door.actions("tagged") == [
        *("endpoint.created", "endpoint.changed", "endpoint.removed", "endpoint.created")
    ]


async def test_endpoints_come_in_pages_by_name(desk: Desk) -> None:
    for name in ("zz-1", "zz-2"):
        await desk.put(name)
    names: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = (await desk.call("GET", "/endpoints", params=query)).json()
        names += [each["name"] for each in page["items"]]
        cursor = page["next_cursor"]
    assert names == sorted(names)
    assert {"zz-1", "zz-2"} <= set(names)
    assert len(set(names)) == len(names)


async def test_who_may_only_read_sees_no_query_of_a_url(desk: Desk) -> None:
    await desk.put("masked")
    for path in ("/endpoints", "/endpoints/masked"):
        assert "t0k3n" not in (await desk.call("GET", path, by=desk.auditor)).text
        assert "t0k3n" in (await desk.call("GET", path)).text
    assert "t0k3n" not in json.dumps(await desk.door.audit())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/endpoints/denied"),
        ("DELETE", "/endpoints/denied"),
        *(("POST", f"/endpoints/denied/{verb}") for verb in ("enable", "disable", "rotate", "ping", "replay")),
        ("POST", "/deliveries/dlv_1/redeliver"),
        ("POST", "/deliveries/dlv_1/skip"),
        ("POST", "/targets/ray/enable"),
    ],
)
async def test_who_reads_endpoints_changes_none(desk: Desk, method: str, path: str) -> None:
    bodies: dict[str, Any] = {"PUT": {"json": HOOK}}
    if path.endswith("replay"):
        bodies["POST"] = {"json": {"since": "2026-01-01T00:00Z"}}
    for somebody in (desk.auditor, desk.viewer):
        refused = await desk.call(method, path, by=somebody, **bodies.get(method, {}))
        assert refused.status_code == 403, refused.text
        assert "endpoints:administer" in refused.text


@pytest.mark.parametrize("path", ["/endpoints", "/endpoints/x", "/endpoints/x/keys", "/targets", "/targets/x"])
async def test_who_may_not_read_endpoints_learns_nothing(desk: Desk, path: str) -> None:
    refused = await desk.call("GET", path, by=desk.viewer)
    assert refused.status_code == 403
    assert "endpoints:read" in refused.text


# Keys.


async def test_a_key_is_replaced_with_both_signing_meanwhile(desk: Desk) -> None:
    first = (await desk.put("turned", HMAC)).json()["key"]["secret"]
    key = {"Idempotency-Key": "turn-1"}
    turned = await desk.call("POST", "/endpoints/turned/rotate", json={"overlap_s": 3600}, headers=key)
    assert turned.headers["cache-control"] == "no-store"
    second = turned.json()["key"]
    assert (second["number"], second["secret"] != first) == (2, True)
    repeated = await desk.call("POST", "/endpoints/turned/rotate", json={"overlap_s": 3600}, headers=key)
    assert repeated.json()["key"] == second
    keys = (await desk.call("GET", "/endpoints/turned/keys")).json()["items"]
    assert [(each["number"], each["until"] is None) for each in keys] == [(2, True), (1, False)]
    # Receivers may have nothing yet but the key that would go.
    assert (await desk.call("POST", "/endpoints/turned/rotate")).status_code == 409
    assert (await desk.put("turned", {**HMAC, "timeoutSeconds": 3})).json()["key"] is None
    at_once = await desk.call("POST", "/endpoints/turned/rotate", json={"overlap_s": 0})
    assert at_once.json()["key"]["number"] == 3
    keys = (await desk.call("GET", "/endpoints/turned/keys")).json()["items"]
    assert [each["number"] for each in keys] == [3]
    assert second["secret"] not in await desk.door.everything_kept()
    desk.door.clock.ahead += timedelta(seconds=1)
    assert (await desk.call("POST", "/endpoints/turned/rotate")).json()["key"]["number"] == 4
    assert (await desk.call("POST", "/endpoints/turned/rotate", json={"overlap_s": 10**9})).status_code == 400


async def test_messages_are_signed_with_both_keys_until_the_overlap_is_over(desk: Desk) -> None:
    await desk.put("overlapping", HMAC)
    ping = await desk.call("POST", "/endpoints/overlapping/ping")
    await desk.call("POST", "/endpoints/overlapping/rotate", json={"overlap_s": 60})
    work, clock = desk.door.database.unit_of_work, desk.door.clock
    receivers = Receivers(work, Secrets(WEBHOOK_KEY), clock)
    async with work() as opened:
        delivery = await opened.deliveries.get(ping.json()["id"])

    async def signing() -> tuple[str, ...]:
        await receivers.read()
        known = receivers.known("endpoint:overlapping")
        assert known is not None
        return known.call(delivery, at=clock.now()).secrets

    both = await signing()
    assert len(set(both)) == 2
    clock.ahead += timedelta(seconds=61)
    assert await signing() == both[:1]


async def test_an_endpoint_that_is_made_anew_has_another_key(desk: Desk) -> None:
    first = (await desk.put("anew", HMAC)).json()["key"]
    await desk.call("DELETE", "/endpoints/anew")
    second = (await desk.put("anew", HMAC)).json()["key"]
    assert second["secret"] != first["secret"]
    other_way = (await desk.put("anew", HOOK)).json()["key"]
    assert other_way["public"] is not None


async def test_without_a_key_of_its_own_a_gateway_makes_no_endpoint(desk: Desk) -> None:
    keyless = Endpoints(desk.door.database.unit_of_work, desk.door.clock, secrets=Secrets())
    services = SimpleNamespace(**{**vars(desk.http._transport.app.state.services), "endpoints": keyless})  # type: ignore[attr-defined]  # the app of the desk
    app = FastAPI()
    app.include_router(endpoints.router, prefix="/control/v1")
    install_problem_handlers(app)
    app.state.services = services
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=PUBLIC_URL) as http:
        refused = await http.put("/control/v1/endpoints/keyless", json=HOOK, headers=dict(desk.root))
    assert refused.status_code == 409
    assert "COUNTERSIGN_WEBHOOK_KEY" in refused.json()["detail"]
    assert (await desk.call("GET", "/endpoints/keyless")).status_code == 404


# By the operator.


async def test_what_is_applied_again_changes_nothing_and_a_dry_run_shows_what_would(desk: Desk) -> None:
    document = {"kind": "Endpoint", "name": "applied", **HOOK}
    [planned] = await desk.apply(document, dry_run=True)
    assert (planned.action, planned.changes) == ("created", True)
    assert [change.action for change in await desk.apply(document)] == ["created"]
    assert [change.action for change in await desk.apply(document)] == ["unchanged"]
    [changed] = await desk.apply({**document, "models": ["fraud-*"]})
    assert [each.path for each in changed.differences] == ["models"]
    assert await desk.door.actions("applied") == ["endpoint.created", "endpoint.changed"]
    # A key that was turned is not turned back.
    await desk.call("POST", "/endpoints/applied/rotate")
    assert [change.action for change in await desk.apply({**document, "models": ["fraud-*"]})] == ["unchanged"]
    assert (await desk.call("GET", "/endpoints/applied/keys")).json()["items"][0]["number"] == 2


async def test_a_document_disables_and_enables(desk: Desk) -> None:
    document = {"kind": "Endpoint", "name": "quiet", **HOOK}
    await desk.apply({**document, "disabled": True})
    assert await desk.state("quiet") is ReceiverState.DISABLED
    await desk.apply(document)
    assert await desk.state("quiet") is ReceiverState.ACTIVE
    await desk.happens()
    await desk.apply({**document, "disabled": True})
    assert [each["state"] for each in await desk.deliveries("quiet")] == ["dead"]
    # Who enables it by hand differs from the document, and who applies that again sees it.
    await desk.call("POST", "/endpoints/quiet/enable")
    assert [change.action for change in await desk.apply({**document, "disabled": True})] == ["changed"]
    # Who disables it by hand is not overruled by a document that says nothing of it.
    await desk.apply(document)
    await desk.call("POST", "/endpoints/quiet/disable")
    assert [change.action for change in await desk.apply(document)] == ["unchanged"]
    assert await desk.state("quiet") is ReceiverState.DISABLED


async def test_what_the_operator_holds_secrets_of_is_written_by_the_operator(desk: Desk) -> None:
    await desk.apply({"kind": "Endpoint", "name": "own", "url": "https://a.example", "secretFile": ["/new", "/old"]})
    assert (await desk.call("GET", "/endpoints/own")).json()["document"]["secretFile"] == ["/new", "/old"]
    for method, path in (("PUT", ""), ("POST", "/rotate")):
        refused = await desk.call(method, f"/endpoints/own{path}", **({"json": HOOK} if method == "PUT" else {}))
        assert refused.status_code == 403
        assert "operator" in refused.json()["detail"]
    assert (await desk.call("GET", "/endpoints/own/keys")).json()["items"] == []
    assert (await desk.call("POST", "/endpoints/own/disable", json={"reason": "noisy"})).status_code == 200


async def test_two_endpoints_of_one_name_are_refused_with_whatever_else_is_wrong(desk: Desk) -> None:
    document = {"kind": "Endpoint", "name": "twice", **HOOK}
    with pytest.raises(InvalidInput) as refused:
        await desk.apply(document, document, {**document, "name": "X"})
    assert len(refused.value.problems) == 2
    assert "each endpoint once" in refused.value.message


# How they are doing.


async def test_disabling_ends_what_waits_and_enabling_begins_from_now_on(desk: Desk) -> None:
    await desk.put("paused")
    await desk.happens("before")
    disabled = await desk.call("POST", "/endpoints/paused/disable", json={"reason": "too loud"})
    assert (disabled.json()["state"], disabled.json()["state_reason"]) == ("disabled", "disabled by Root: too loud")
    assert [each["state"] for each in await desk.deliveries("paused")] == ["dead"]
    await desk.happens("meanwhile")
    for refused in ("ping", "replay"):
        body = {"json": {"since": "2026-01-01T00:00Z"}} if refused == "replay" else {}
        assert (await desk.call("POST", f"/endpoints/paused/{refused}", **body)).status_code == 409
    for _ in range(2):
        assert (await desk.call("POST", "/endpoints/paused/enable")).json()["state"] == "active"
    await desk.happens("after")
    assert [each["lane"] for each in await desk.deliveries("paused")] == ["after", "before"]
    actions = await desk.door.actions("paused")
    assert actions == ["endpoint.created", "endpoint.disabled", "endpoint.enabled"]
    assert (await desk.call("POST", "/endpoints/nobody/enable")).status_code == 404


async def test_what_was_removed_is_sent_nothing_and_its_log_stays(desk: Desk) -> None:
    await desk.put("gone")
    await desk.happens()
    assert (await desk.call("DELETE", "/endpoints/gone")).status_code == 204
    [left] = await desk.deliveries("gone")
    assert left["state"] == "dead"
    assert (await desk.call("POST", f"/deliveries/{left['id']}/redeliver")).status_code == 409


async def test_a_failure_is_shown_with_what_was_sent_and_answered_and_is_sent_again(desk: Desk) -> None:
    await desk.put("failing")
    await desk.happens("fraud")
    [made] = await desk.deliveries("failing", model="fraud", state="pending")
    assert (await desk.call("POST", f"/deliveries/{made['id']}/redeliver")).status_code == 409
    await desk.attempted(made["id"], 404, DeliveryState.DEAD)
    shown = (await desk.call("GET", f"/deliveries/{made['id']}", by=desk.auditor)).json()
    assert shown["payload"]["type"] == "countersign.promotion.applied.v1"
    [attempt] = shown["log"]
    assert (attempt["status"], attempt["address"], attempt["response"]) == (404, "192.0.2.7", "no such hook")
    assert attempt["request_headers"]["webhook-id"] == made["message_id"]
    key = {"Idempotency-Key": "again"}
    again = await desk.call("POST", f"/deliveries/{made['id']}/redeliver", headers=key)
    assert again.status_code == 201, again.text
    assert (again.json()["message_id"], again.json()["replays"]) == (made["message_id"], made["id"])
    repeated = await desk.call("POST", f"/deliveries/{made['id']}/redeliver", headers=key)
    assert repeated.json()["id"] == again.json()["id"]
    skipped = await desk.call("POST", f"/deliveries/{again.json()['id']}/skip")
    assert skipped.json()["state"] == "dead"
    assert await desk.door.actions(made["id"]) == ["delivery.redelivered"]


async def test_deliveries_are_found_by_what_one_knows_of_them(desk: Desk) -> None:
    await desk.put("sought", {**HOOK, "events": ["*"]})
    await desk.happens("a")
    await desk.happens("b", EventType.REJECTED)
    found = await desk.deliveries("sought")
    assert [each["lane"] for each in found] == ["b", "a"]
    assert [each["lane"] for each in await desk.deliveries("sought", model="a")] == ["a"]
    assert [each["lane"] for each in await desk.deliveries("sought", type="promotion.rejected")] == ["b"]
    assert [each["lane"] for each in await desk.deliveries("sought", message_id=found[0]["message_id"])] == ["b"]
    assert await desk.deliveries("sought", workspace="other", model="a") == []
    assert await desk.deliveries("sought", state="delivered") == []
    assert len(await desk.deliveries("sought", since=found[0]["created_at"])) == 1
    assert len(await desk.deliveries("sought", until=found[0]["created_at"])) == 1
    page = (await desk.call("GET", "/deliveries", params={"receiver": "endpoint:sought", "limit": "1"})).json()
    rest = await desk.deliveries("sought", cursor=page["next_cursor"])
    assert [each["id"] for each in [*page["items"], *rest]] == [each["id"] for each in found]
    assert (await desk.call("GET", "/deliveries", params={"receiver": "nobody"})).status_code == 400
    assert (await desk.call("GET", "/deliveries/dlv_none")).status_code == 404


async def test_a_ping_is_one_message_however_often_it_is_asked_for(desk: Desk) -> None:
    await desk.put("pinged")
    key = {"Idempotency-Key": "ping-1"}
    first = await desk.call("POST", "/endpoints/pinged/ping", headers=key)
    assert (first.status_code, first.json()["cause"]) == (201, "ping")
    assert (await desk.call("POST", "/endpoints/pinged/ping", headers=key)).json()["id"] == first.json()["id"]
    assert len(await desk.deliveries("pinged")) == 1
    assert (await desk.call("POST", "/endpoints/nobody/ping")).status_code == 404


async def test_a_range_is_replayed_what_was_missed_or_all_of_it(desk: Desk) -> None:
    await desk.put("replayed")
    since = desk.door.clock.now().isoformat()
    for model in ("one", "two"):
        await desk.happens(model)
    newest, oldest = await desk.deliveries("replayed")
    await desk.attempted(oldest["id"], 200, DeliveryState.DELIVERED)
    await desk.attempted(newest["id"], 500, DeliveryState.DEAD)

    async def replay(**body: object) -> Any:
        answer = await desk.call("POST", "/endpoints/replayed/replay", json={"since": since, **body})
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert await replay(dry_run=True) == {"count": 1, "dry_run": True}
    assert await replay(dry_run=True, only="all") == {"count": 2, "dry_run": True}
    assert (await replay(dry_run=True, types=["promotion.rej*"]))["count"] == 0
    assert (await replay(dry_run=True, until=since))["count"] == 0
    assert await replay() == {"count": 1, "dry_run": False}
    assert await replay() == {"count": 0, "dry_run": False}  # it waits to be sent
    again = (await desk.deliveries("replayed"))[0]
    assert (again["message_id"], again["cause"]) == (newest["message_id"], "replay")
    refused = await desk.call("POST", "/endpoints/replayed/replay", json={"since": since, "types": ["no.such"]})
    assert refused.status_code == 400
    assert await desk.door.actions("replayed") == ["endpoint.created", "endpoint.replayed"]


# Targets.


async def test_targets_are_listed_and_enabled_again(desk: Desk) -> None:
    target = Target("ray", "https://ray.example/?token=t0k3n", ("file:/a", "file:/b"), ("env:B",))
    async with desk.door.database.unit_of_work() as work:
        await work.targets.put(target, at=desk.door.clock.now())
        await work.targets.set_state("ray", ReceiverState.DISABLED, reason="it answered 410 Gone")
        await work.commit()
    [listed] = (await desk.call("GET", "/targets", by=desk.auditor)).json()["items"]
    assert (listed["state"], listed["state_reason"]) == ("disabled", "it answered 410 Gone")
    assert listed["document"]["secretFile"] == ["/a", "/b"]
    assert "t0k3n" not in json.dumps(listed)
    assert (await desk.call("POST", "/targets/ray/enable")).json()["state"] == "active"
    assert (await desk.call("GET", "/targets/ray")).json()["state"] == "active"
    assert await desk.door.actions("ray") == ["target.enabled"]
    assert (await desk.call("GET", "/targets/none")).status_code == 404


# For people.


async def test_the_console_shows_who_is_told_and_why_that_failed(desk: Desk) -> None:
    await desk.put("seen", {**HOOK, "description": "<b>CI</b>"})
    await desk.happens("fraud")
    [made] = await desk.deliveries("seen")
    await desk.attempted(made["id"], 404, DeliveryState.DEAD)
    listed = await desk.http.get("/console/endpoints", headers=desk.auditor)
    assert "seen" in listed.text
    page = await desk.http.get("/console/endpoints/seen", headers=desk.auditor)
    assert "&lt;b&gt;CI&lt;/b&gt;" in page.text
    assert made["id"] in page.text
    assert "Send a ping" not in page.text  # an auditor reads
    shown = await desk.http.get(f"/console/deliveries/{made['id']}", headers=desk.auditor)
    for said in ("Answered 404", "is the URL right?", "no such hook", "countersign.promotion.applied.v1"):
        assert said in shown.text
    assert "t0k3n" not in listed.text + page.text + shown.text
    for path in ("/endpoints", "/endpoints/seen", f"/deliveries/{made['id']}"):
        assert (await desk.http.get(f"/console{path}", headers=desk.viewer)).status_code == 403


async def test_the_console_says_why_an_endpoint_takes_nothing_and_hides_where_people_are_told(desk: Desk) -> None:
    own = {"kind": "Endpoint", "name": "own", "url": HOOK["url"], "secretFile": "/run/secrets/own"}
    await desk.apply({"kind": "Endpoint", "name": "people", "channel": "slack", "urlFile": "/run/secrets/people"}, own)
    await desk.put("silent")
    await desk.happens("fraud")
    [made] = await desk.deliveries("silent")
    await desk.attempted(made["id"], None, DeliveryState.DEAD)
    async with desk.door.database.unit_of_work() as work:
        since = desk.door.clock.now()
        await work.endpoints.set_state("silent", ReceiverState.ACTIVE, reason=None, failing_since=since)
        await work.commit()
    listed = await desk.http.get("/console/endpoints", headers=desk.auditor)
    assert "an address that is secret" in listed.text
    assert "Failing" in listed.text
    page = await desk.http.get("/console/endpoints/silent", headers=desk.auditor)
    for said in ("Failing", "connection refused", made["id"]):
        assert said in page.text
    for name in ("people", "own"):
        assert (await desk.http.get(f"/console/endpoints/{name}", headers=desk.auditor)).status_code == 200


async def test_who_administers_pings_and_sends_again_on_the_console(desk: Desk) -> None:
    await desk.put("pressed")
    await desk.happens("fraud")
    [made] = await desk.deliveries("pressed")
    again = f"/console/deliveries/{made['id']}/redeliver"
    form = {"key": "key_1"}
    assert (await desk.http.post(again, data=form, headers=desk.root)).status_code == 409  # it waits
    await desk.attempted(made["id"], 500, DeliveryState.DEAD)
    for somebody in (desk.auditor, desk.viewer):
        for path in (again, "/console/endpoints/pressed/ping"):
            assert (await desk.http.post(path, data=form, headers=somebody)).status_code == 403
    assert "Send it again" in (await desk.http.get(f"/console/deliveries/{made['id']}", headers=desk.root)).text
    for path in (again, "/console/endpoints/pressed/ping"):
        led = [await desk.http.post(path, data=form, headers=desk.root) for _ in range(2)]
        assert [each.status_code for each in led] == [303, 303]
        assert led[0].headers["location"] == led[1].headers["location"]
        assert (await desk.http.get(led[0].headers["location"], headers=desk.root)).status_code == 200
    assert len(await desk.deliveries("pressed")) == 3
    await desk.call("POST", "/endpoints/pressed/disable")
    paused = await desk.http.post("/console/endpoints/pressed/ping", data={"key": "key_2"}, headers=desk.root)
    assert paused.status_code == 409
    assert "disabled" in paused.text
