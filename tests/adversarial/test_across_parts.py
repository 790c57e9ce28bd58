"""Attacks that no single part withstands: on what is remembered, written down, told, and held against others."""

from __future__ import annotations

import asyncio
import base64
import time
from copy import copy
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fastapi import FastAPI

from app.adapters.secrets import Secrets
from app.adapters.webhook_signatures import StandardWebhooks, signatures
from app.domain.errors import NotAuthenticated
from app.domain.identity import Verified
from app.domain.problems import challenge
from app.main import describe
from app.proxy.headers import outward
from app.routers import deployments
from app.routers.problems import install_problem_handlers
from app.routers.protecting import ProtectiveHeaders
from app.services.callbacks import Callbacks
from app.services.calling import Calling
from app.services.deployments import Deployments
from app.services.rolling_out import RollingOut
from tests.door import CLI, DEVICE, PUBLIC_URL, Door, Pkce, until


class Held:
    """Verifies tokens of ours, and says so when a test lets it."""

    def __init__(self, tokens: object) -> None:
        self._tokens = tokens
        self.has_verified, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def verify(self, secret: str) -> Verified:
        verified: Verified = await self._tokens.verify(secret)  # type: ignore[attr-defined]
        self.has_verified.set()
        await self.may_go_on.wait()
        return verified


def scope_of(credential: str, path: str = "/") -> dict[str, object]:
    headers = [(b"authorization", credential.encode())]
    return {"type": "http", "method": "GET", "path": path, "headers": headers, "client": ("192.0.2.9", 1)}


async def test_a_token_that_is_revoked_while_it_is_verified_is_not_remembered(door: Door) -> None:
    """What was verified before something was taken away must not be kept as if it had been verified after."""
    browser = await door.signed_in("ada")
    made = (await door.create(browser)).json()
    authentication = copy(door.services.authentication)
    held = authentication._tokens = Held(door.services.tokens)
    before = authentication._freshness.epoch()
    asked = asyncio.create_task(authentication.authenticate(scope_of(f"Bearer {made['token']}")))
    await held.has_verified.wait()
    await door.http.delete(f"/control/v1/tokens/{made['id']}", headers=browser)

    async def has_changed() -> bool:
        return authentication._freshness.epoch() not in {before, None}

    await until(has_changed, "what is remembered of callers")
    held.may_go_on.set()
    await asked
    with pytest.raises(NotAuthenticated, match="was revoked"):
        await authentication.authenticate(scope_of(f"Bearer {made['token']}"))


async def test_a_session_is_no_access_token(door: Door) -> None:
    """Else the checks of where a request with a cookie comes from would be for those alone who keep to them."""
    browser = await door.signed_in("bea")
    secret = browser["Cookie"].partition("=")[2]
    for scheme in ("Cookie", "cookie", "Bearer", "Session"):
        answer = await door.create({"Authorization": f"{scheme} {secret}"})
        assert answer.status_code == 401, scheme


async def test_an_address_with_a_nul_is_refused_and_recorded_as_any_other(door: Door) -> None:
    before = len(await door.audit())
    answer = await door.http.delete("/control/v1/tokens/a%00b", headers={"Authorization": "Bearer made.up.token"})
    assert answer.status_code == 401
    assert [entry["action"] for entry in (await door.audit())[before:]] == ["authentication.refused"]
    token = (await door.create(await door.signed_in("cleo"))).json()["token"]
    answer = await door.http.get("/auth/device%00", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 404


def test_a_challenge_is_one_header_whatever_it_says() -> None:
    said = challenge(
        NotAuthenticated('a "quoted" \\ text\r\nSet-Cookie: a=b é☃', error="invalid_token"), public_url="https://a"
    )
    assert said.isascii()
    assert said.isprintable()
    assert said.count('"') == 8
    assert "\\" not in said


async def test_who_sends_a_credential_is_a_program_and_gets_no_redirect(door: Door) -> None:
    """Java's own client asks for HTML first, whatever it is used for."""
    java = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"
    answer = await door.http.get("/control/v1/tokens", headers={"Accept": java, "Authorization": "Bearer cs_pat_0"})
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize("exp", [2**52, 253_402_300_800, 1e15])
async def test_a_token_that_never_expires_is_exchanged_for_one_that_does(door: Door, exp: float) -> None:
    answer = await door.exchange(door.issuer.token("pipeline", groups=["services"], exp=exp))
    assert answer.status_code == 200, answer.text
    assert answer.json()["expires_in"] <= 900


async def test_an_older_token_of_the_provider_does_not_bring_groups_back(door: Door) -> None:
    """They have vanished at the sign-in after it; what lasts longer than the old token must not have them again."""
    old = door.issuer.token("dora", groups=["approvers"], iat=int(time.time()) - 600)
    browser = await door.signed_in("dora")
    made = await door.create({"Authorization": f"Bearer {old}"})
    assert made.status_code == 201
    for credential in (browser, {"Authorization": f"Bearer {made.json()['token']}"}):
        scope = {"type": "http", "method": "GET", "path": "/", "client": None}
        headers = [(name.lower().encode(), value.encode()) for name, value in credential.items()]
        headers.append((b"host", PUBLIC_URL.removeprefix("https://").encode()))
        principal = await door.services.authentication.authenticate({**scope, "headers": headers})
        assert principal.groups == frozenset()
    # What the provider says later counts.
    new = door.issuer.token("dora", groups=["approvers"], iat=int(time.time()) + 5)
    assert (await door.create({"Authorization": f"Bearer {new}"})).status_code == 201


async def test_no_page_of_ours_is_framed_and_no_answer_shared() -> None:
    """The API's own page calls the API with a person's session."""
    transport = httpx.ASGITransport(ProtectiveHeaders(describe()))
    async with httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL) as http:
        for path in ("/control/docs", "/control/docs/assets/swagger-ui.css", "/control/v1/openapi.json", "/livez"):
            answer = await http.get(path)
            assert answer.status_code == 200, path
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["cache-control"].startswith("private")


@pytest.mark.parametrize("said", [None, b"no-cache", b"public, max-age=60"])
def test_what_mlflow_answers_is_for_this_caller_unless_it_says_otherwise(said: bytes | None) -> None:
    """A cache on the way would give the picture of one person's model to the next."""
    headers = [(b"Content-Type", b"image/png"), *([(b"Cache-Control", said)] if said else [])]
    told = [value for name, value in outward(headers, "http://mlflow", ()) if name == b"cache-control"]
    assert told == [said or b"private, no-cache"]


@pytest.mark.parametrize("twice", ["authorization", "cookie"])
async def test_two_credentials_are_refused_and_recorded(door: Door, twice: str) -> None:
    browser = await door.signed_in(f"emma-{twice}")
    token = (await door.create(browser)).json()["token"]
    value = f"Bearer {token}" if twice == "authorization" else browser["Cookie"]
    before = len(await door.audit())
    answer = await door.http.get("/control/v1/tokens", headers=[(twice, value), (twice, value)])
    assert answer.status_code == 401
    assert 'error="invalid_request"' in answer.headers["www-authenticate"]
    (entry,) = (await door.audit())[before:]
    assert entry["action"] == "authentication.refused"
    assert value not in str(entry)


async def test_a_report_that_nobody_signed_is_recorded(door: Door) -> None:
    app = FastAPI()
    app.include_router(deployments.router)
    install_problem_handlers(app)
    callbacks = Callbacks(
        Deployments(
            door.database.unit_of_work, door.clock, RollingOut(door.clock, Calling(door.clock, public_url=PUBLIC_URL))
        ),
        Secrets(),
        StandardWebhooks(),
    )
    app.state.services = SimpleNamespace(**vars(door.services), callbacks=callbacks)
    before = len(await door.audit())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=PUBLIC_URL) as http:
        signed = {"Webhook-Id": "m", "Webhook-Timestamp": "1", "Webhook-Signature": "v1,made-up"}
        answer = await http.post("/deployments/dep_1/status", content=b"{}", headers=signed)
    assert answer.status_code == 401
    (entry,) = (await door.audit())[before:]
    assert (entry["action"], entry["object"]) == ("authentication.refused", "POST /deployments/dep_1/status")
    assert "made-up" not in str(entry)


async def test_during_a_rotation_a_report_is_signed_with_either_secret_and_with_no_other(
    door: Door, tmp_path: Path
) -> None:
    """The newer secret by HMAC, the older a public ed25519 key; and one of them may not be there yet, or any more."""
    hmac = "whsec_" + base64.b64encode(b"n" * 32).decode()
    private = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    ed25519 = "whsk_" + base64.b64encode(private.private_bytes_raw()).decode()
    public = "whpk_" + base64.b64encode(private.public_key().public_bytes_raw()).decode()
    newer, older = tmp_path / "newer", tmp_path / "older"
    connection = await asyncpg.connect(door.database_url)
    # Without the promotion that there would be: what is asked here is who signed.
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(
        "INSERT INTO targets (name, url, secrets, callback_secrets, allowed_networks, deadline_s, updated_at) "
        "VALUES ('rotating', 'http://x', ARRAY['env:NONE'], $1, ARRAY[]::text[], 900, now())",
        [f"file:{newer}", f"file:{older}"],
    )
    await connection.execute(
        "INSERT INTO deployments (id, target, model, generation, version, uri, digest, promotion_id, phase, reason, "
        "message, observed_generation, sequence, requested_at, updated_at) "
        "VALUES ('dpl_rotating', 'rotating', 'm', 1, '1', '', '', 'p', 'Requested', '', '', 0, 0, now(), now())"
    )
    await connection.close()
    callbacks = Callbacks(
        Deployments(
            door.database.unit_of_work, door.clock, RollingOut(door.clock, Calling(door.clock, public_url=PUBLIC_URL))
        ),
        Secrets(),
        StandardWebhooks(),
    )

    async def is_taken(secret: str) -> bool:
        now, body = int(time.time()), "{}"
        signed = {
            "webhook-id": "m",
            "webhook-timestamp": str(now),
            "webhook-signature": signatures((secret,), "m", now, body),
        }
        try:
            await callbacks.verify("dpl_rotating", signed, body.encode())
        except NotAuthenticated:
            return False
        return True

    assert [await is_taken(each) for each in (hmac, ed25519)] == [False, False]  # neither is there
    older.write_text(public)
    assert [await is_taken(each) for each in (hmac, ed25519)] == [False, True]
    newer.write_text(hmac)
    assert [await is_taken(each) for each in (hmac, ed25519)] == [True, True]
    older.unlink()
    assert [await is_taken(each) for each in (hmac, ed25519)] == [True, False]


async def test_of_two_who_redeem_one_code_at_once_one_wins_and_the_login_ends(door: Door) -> None:
    browser, pkce = await door.signed_in("fred"), Pkce()
    code = await door.code(browser, pkce)
    answers = await asyncio.gather(*(door.redeem(code, pkce) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400]
    (won,) = [answer.json() for answer in answers if answer.status_code == 200]
    assert await door.verifies(won["access_token"]) == "The login of this token has ended. Sign in again."


async def test_of_two_devices_with_one_code_at_once_one_is_signed_in_to(door: Door) -> None:
    asked = (await door.http.post("/auth/device_authorization", data={"client_id": CLI, "scope": "track"})).json()
    form = {"user_code": asked["user_code"], "decision": "allow"}
    first, second = await door.signed_in("gina"), await door.signed_in("hugo")
    decided = await asyncio.gather(*(door.http.post("/auth/device", data=form, headers=who) for who in (first, second)))
    assert sorted(answer.status_code for answer in decided) == [200, 404]
    poll = {"grant_type": DEVICE, "device_code": asked["device_code"], "client_id": CLI}
    answers = await asyncio.gather(*(door.token(**poll) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400]
