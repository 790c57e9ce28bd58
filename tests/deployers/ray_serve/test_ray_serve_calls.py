"""Calls from the gateway: who may call, what is understood, what is answered. Ray is not reachable in these tests."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from countersign_deployer.contract import MOST_BYTES as MAX_CALL_BYTES
from countersign_deployer.contract import is_below
from countersign_deployer.signatures import BadSignature, sign, sign_get, verify
from countersign_deployer.state import StateStore
from countersign_ray_serve.main import create_app
from countersign_ray_serve.settings import Settings
from countersign_ray_serve.state import State
from hypothesis import given
from hypothesis import strategies as st

Json = dict[str, Any]
MakeCall = Callable[..., Json]
SignCall = Callable[..., tuple[bytes, dict[str, str]]]
SECRET = "whsec_" + base64.b64encode(b"a" * 32).decode()
NEXT_SECRET = "whsec_" + base64.b64encode(b"b" * 32).decode()


@asynccontextmanager
async def deployer(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings, StateStore(settings.state_dir, State))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://deployer.test") as client,
    ):
        yield client


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with deployer(settings) as client:
        yield client


async def send(client: httpx.AsyncClient, message: tuple[bytes, dict[str, str]]) -> httpx.Response:
    return await client.post("/v1/deployments", content=message[0], headers=message[1])


async def test_a_call_is_accepted_before_ray_has_answered(
    client: httpx.AsyncClient, make_call: MakeCall, sign_call: SignCall
) -> None:
    answer = await send(client, sign_call(make_call(generation=3)))
    assert (answer.status_code, answer.json()) == (202, {"result": "accepted", "observed_generation": 3})


async def test_the_same_call_again_changes_nothing(
    client: httpx.AsyncClient, make_call: MakeCall, sign_call: SignCall
) -> None:
    message = sign_call(make_call(generation=3))
    await send(client, message)
    answer = await send(client, message)
    assert (answer.status_code, answer.json()["result"]) == (200, "unchanged")


async def test_a_lower_generation_is_superseded(
    client: httpx.AsyncClient, make_call: MakeCall, sign_call: SignCall
) -> None:
    await send(client, sign_call(make_call(generation=3)))
    answer = await send(client, sign_call(make_call(generation=2, version="6")))
    assert (answer.status_code, answer.json()) == (200, {"result": "superseded", "current_generation": 3})


async def test_the_same_generation_with_other_bytes_is_a_conflict(
    client: httpx.AsyncClient, make_call: MakeCall, sign_call: SignCall
) -> None:
    await send(client, sign_call(make_call(generation=3)))
    answer = await send(client, sign_call(make_call(generation=3, digest="sha256:" + "1" * 64)))
    assert answer.status_code == 409
    assert answer.json()["errors"][0]["field"] == "data.generation"


async def test_what_was_accepted_survives_a_restart(
    settings: Settings, make_call: MakeCall, sign_call: SignCall
) -> None:
    async with deployer(settings) as client:
        await send(client, sign_call(make_call(generation=3)))
    async with deployer(settings) as client:
        answer = await send(client, sign_call(make_call(generation=2)))
        assert answer.json()["result"] == "superseded"


async def test_a_wrong_signature_is_refused_before_the_body_is_parsed(
    client: httpx.AsyncClient, make_call: MakeCall, sign_call: SignCall
) -> None:
    _, headers = sign_call(make_call())
    answer = await send(client, (b"{not json", headers))
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"


async def test_both_secrets_of_a_rotation_are_accepted(
    make_settings: Callable[..., Settings], make_call: MakeCall, sign_call: SignCall
) -> None:
    async with deployer(make_settings(webhook_secret=f"{SECRET},{NEXT_SECRET}")) as client:
        for generation, secret in enumerate((SECRET, NEXT_SECRET), start=1):
            answer = await send(client, sign_call(make_call(generation=generation), secret))
            assert answer.status_code == 202


@pytest.mark.parametrize("minutes", [-6, 6])
async def test_a_message_that_is_too_old_or_too_new_is_refused(
    client: httpx.AsyncClient, make_settings: Callable[..., Settings], make_call: MakeCall, minutes: int
) -> None:
    event = make_call()
    body = json.dumps(event)
    secret = make_settings().webhook_secret.get_secret_value()
    headers = sign(event["id"], body, secret, at=datetime.now(UTC) + timedelta(minutes=minutes))
    assert (await send(client, (body.encode(), headers))).status_code == 401


async def test_a_message_under_another_id_than_its_event_is_refused(
    client: httpx.AsyncClient, make_settings: Callable[..., Settings], make_call: MakeCall
) -> None:
    body = json.dumps(make_call())
    headers = sign("evt_other", body, make_settings().webhook_secret.get_secret_value())
    answer = await send(client, (body.encode(), headers))
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "id")


async def test_a_call_that_is_too_long_is_refused(
    client: httpx.AsyncClient, make_call: MakeCall, sign_call: SignCall
) -> None:
    body, headers = sign_call(make_call())
    answer = await send(client, (body + b" " * MAX_CALL_BYTES, headers))
    assert answer.status_code == 413


async def test_signed_nonsense_is_a_bad_request(client: httpx.AsyncClient, settings: Settings) -> None:
    headers = sign("evt_1", "nonsense", settings.webhook_secret.get_secret_value())
    assert (await send(client, (b"nonsense", headers))).status_code == 400


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"target": "kserve"}, "data.target"),
        ({"resource": "other"}, "subject"),
        ({"promotion": {"id": "prm_1"}}, "data.promotion.requested_by"),
        ({"generation": "3"}, "data.generation"),
        ({"generation": 0}, "data.generation"),
        ({"action": "restart"}, "data.action"),
        ({"import_path": "os:system"}, "data.import_path"),
        ({"model": None}, "data.model"),
        ({"deployment_id": "../other"}, "data.deployment_id"),
        ({"callback": {"url": "http://elsewhere.test/status"}}, "data.callback.url"),
        ({"callback": {"url": "http://127.0.0.1:9.evil.test/status"}}, "data.callback.url"),
        ({"callback": {"url": "http://127.0.0.1:9@evil.test/status"}}, "data.callback.url"),
    ],
)
async def test_a_call_that_may_not_be_followed_names_the_field(
    client: httpx.AsyncClient, make_call: MakeCall, sign_call: SignCall, change: Json, field: str
) -> None:
    answer = await send(client, sign_call(make_call(**change)))
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


@pytest.mark.parametrize(
    "uri",
    [
        "s3://models-of-mallory/iris/",
        "s3://models/../secrets/",
        "s3://models/%2e%2e/secrets/",
        "s3://models/%252e%252e/secrets/",
        "file:///srv/models/../../etc/",
        "file:///srv/models",
        "https://models/iris/",
        "s3://models/iris/?versionId=1",
    ],
)
async def test_artifacts_elsewhere_are_not_loaded(
    client: httpx.AsyncClient, make_call: MakeCall, sign_call: SignCall, uri: str
) -> None:
    answer = await send(client, sign_call(make_call(uri=uri)))
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "data.model.uri")


async def test_more_attributes_in_the_envelope_are_welcome(
    client: httpx.AsyncClient, make_call: MakeCall, sign_call: SignCall
) -> None:
    event = {**make_call(), "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    assert (await send(client, sign_call(event))).status_code == 202


async def test_a_deployment_can_be_looked_up_by_who_knows_the_secret(
    client: httpx.AsyncClient, make_call: MakeCall, sign_call: SignCall, settings: Settings
) -> None:
    event = make_call(generation=5)
    await send(client, sign_call(event))
    path = f"/v1/deployments/{event['data']['deployment_id']}"
    secret = settings.webhook_secret.get_secret_value()
    answer = await client.get(path, headers=sign_get(path, secret))
    assert answer.json()["generation"] == 5
    assert (await client.get(path)).status_code == 401
    assert (await client.get(path, headers=sign_get("/v1/deployments/dep_other", secret))).status_code == 401
    unknown = "/v1/deployments/dep_unknown"
    assert (await client.get(unknown, headers=sign_get(unknown, secret))).status_code == 404


async def test_it_lives_but_is_not_ready_while_ray_does_not_answer(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livez")).status_code == 200
    answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert "Ray's dashboard does not answer" in answer.json()["detail"]


@given(body=st.binary(max_size=200), flipped=st.integers(min_value=0))
def test_no_changed_body_verifies(body: bytes, flipped: int) -> None:
    text = base64.b64encode(body).decode() + "."
    headers = sign("evt_1", text, SECRET)
    verify(text.encode(), headers, [NEXT_SECRET, SECRET])
    at = flipped % len(text)
    with pytest.raises(BadSignature):
        verify((text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]).encode(), headers, [NEXT_SECRET, SECRET])


@given(signature=st.text(max_size=80), timestamp=st.text(max_size=20), body=st.binary(max_size=40))
def test_any_other_header_is_a_bad_signature_and_nothing_worse(signature: str, timestamp: str, body: bytes) -> None:
    headers = {"webhook-id": "evt_1", "webhook-timestamp": timestamp, "webhook-signature": signature}
    with pytest.raises(BadSignature):
        verify(body, headers, [SECRET])


@given(rest=st.text(max_size=60))
def test_what_is_below_a_prefix_stays_below_it_however_it_is_read(rest: str) -> None:
    import posixpath
    from urllib.parse import unquote, urlsplit

    uri = f"s3://models/iris/{rest}"
    if is_below(uri, "s3://models/iris"):
        parts = urlsplit(unquote(uri))
        assert parts.netloc == "models"
        assert (posixpath.normpath(parts.path) + "/").startswith("/iris/")
