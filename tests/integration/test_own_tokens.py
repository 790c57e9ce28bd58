"""Personal access tokens: made, used, listed, revoked, by people and with MLflow's own client."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from app.domain.tokens import prefix_of
from tests.door import PUBLIC_URL, Door, until
from tests.platform import Countersign


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_a_person_makes_a_token_that_is_shown_once(door: Door) -> None:
    browser = await door.signed_in("ada")
    answer = await door.create(browser, name=" nightly ", scopes=["registry", "track"], expires_in_days=30)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert prefix_of(made["token"]) is not None
    assert (made["name"], made["scopes"], made["owner"]) == ("nightly", ["registry", "track"], door.id_of("ada"))
    lasts = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert lasts == timedelta(days=30)
    listed = (await door.http.get("/control/v1/tokens", headers=browser)).json()["items"]
    assert [item["id"] for item in listed] == [made["id"]]
    assert "token" not in listed[0]
    # Nor does the database hold it, the audit log included.
    assert made["token"] not in await door.everything_kept()
    assert await door.actions(made["id"]) == ["token.created"]


async def test_a_token_speaks_for_its_owner_within_its_scopes(door: Door) -> None:
    browser = await door.signed_in("bea", groups=("administrators",))
    made = (await door.create(browser, scopes=["admin"])).json()
    # An administrator's token with `admin` may see others' tokens.
    path = f"/control/v1/tokens?principal={door.id_of('ada')}"
    assert (await door.http.get(path, headers=bearer(made["token"]))).status_code == 200
    narrow = (await door.create(browser, scopes=["track"])).json()
    refused = await door.http.get(path, headers=bearer(narrow["token"]))
    assert refused.status_code == 403
    assert 'error="insufficient_scope"' in refused.headers["www-authenticate"]


async def test_a_token_is_good_as_the_password_of_any_user(door: Door) -> None:
    made = (await door.create(await door.signed_in("cleo", groups=("administrators",)), scopes=["admin"])).json()
    path = f"/control/v1/tokens?principal={door.id_of('ada')}"
    assert (await door.http.get(path, auth=("anybody", made["token"]))).status_code == 200
    refused = await door.http.get(path, auth=("anybody", made["token"][:-1] + "!"))
    assert refused.status_code == 401
    assert "checksum" in refused.json()["detail"]


async def test_a_revoked_token_is_refused_within_a_second_and_says_so(door: Door) -> None:
    browser = await door.signed_in("dora")
    made = (await door.create(browser)).json()
    assert (await door.me(made["token"])).status_code == 403  # known, though not for looking after tokens
    assert (await door.http.delete(f"/control/v1/tokens/{made['id']}", headers=browser)).status_code == 204
    assert (await door.http.delete(f"/control/v1/tokens/{made['id']}", headers=browser)).status_code == 204

    async def refused() -> bool:
        return (await door.me(made["token"])).status_code == 401

    await until(refused, "the end of a revoked token")
    assert (await door.me(made["token"])).json()["detail"] == "The token was revoked."
    assert await door.actions(made["id"]) == ["token.created", "token.revoked"]
    # The name is free again.
    assert (await door.create(browser, name=made["name"])).status_code == 201


async def test_the_end_of_a_token_says_so(door: Door) -> None:
    made = (await door.create(await door.signed_in("emma"), expires_in_days=2)).json()
    door.clock.ahead = timedelta(days=2, seconds=1)
    try:
        assert await door.verifies(made["token"]) == "The token has expired."
    finally:
        door.clock.ahead = timedelta()
    assert await door.verifies(made["token"]) is None


async def test_nothing_of_somebody_disabled_works(door: Door) -> None:
    browser = await door.signed_in("fay")
    made = (await door.create(browser)).json()
    assert (await door.me(made["token"])).status_code == 403
    await door.disable("fay")

    async def refused() -> bool:
        return (await door.me(made["token"])).status_code == 401

    await until(refused, "the end of a disabled person's token")
    assert (await door.me(made["token"])).json()["detail"] == "An administrator has disabled this account."
    (entry,) = await door.services.audit.page(after=0, limit=1, newest_first=True)
    assert (entry.document["action"], entry.document["actor"]["id"]) == ("authentication.refused", "")
    assert entry.document["details"]["principal"].startswith(f"{door.issuer.url}|")
    assert (await door.create({"Authorization": f"Bearer {door.issuer.token('fay')}"})).status_code == 401


async def test_a_token_acts_with_the_groups_that_the_provider_named_last(door: Door) -> None:
    browser = await door.signed_in("gil", groups=("administrators",))
    made = (await door.create(browser, scopes=["admin"])).json()
    assert (await door.services.tokens.verify(made["token"])).identity.groups == {"administrators"}
    await door.signed_in("gil", groups=())
    assert (await door.services.tokens.verify(made["token"])).identity.groups == frozenset()


async def test_names_are_ones_own_and_places_are_few(door: Door) -> None:
    browser = await door.signed_in("hana")
    for name in ("one", "two", "three"):
        assert (await door.create(browser, name=name)).status_code == 201
    assert "3 are allowed" in (await door.create(browser, name="four")).json()["detail"]
    (await door.http.get("/control/v1/tokens", headers=browser)).json()
    taken = await door.create(browser, name="one")
    assert (taken.status_code, "named one" in taken.json()["detail"]) == (409, True)
    # A name is its owner's, not everybody's; and what is over takes no place.
    assert (await door.create(await door.signed_in("ida"), name="one")).status_code == 201
    door.clock.ahead = timedelta(days=2)
    try:
        assert (await door.create(await door.signed_in("hana"), name="one")).status_code == 201
    finally:
        door.clock.ahead = timedelta()


async def test_of_many_tokens_made_at_once_no_more_are_made_than_allowed(door: Door) -> None:
    browser = await door.signed_in("jan")
    answers = await asyncio.gather(*(door.create(browser) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [201, 201, 201, 409, 409, 409]


async def test_the_last_use_is_kept_once_a_minute(door: Door) -> None:
    browser = await door.signed_in("kim")
    made = (await door.create(browser)).json()

    async def last_used() -> str | None:
        items = (await door.http.get("/control/v1/tokens", headers=browser)).json()["items"]
        used: str | None = items[0]["last_used_at"]
        return used

    assert await last_used() is None
    assert await door.verifies(made["token"]) is None
    await door.services.tokens.close()
    first = await last_used()
    assert first is not None
    assert await door.verifies(made["token"]) is None
    await door.services.tokens.close()
    assert await last_used() == first


async def test_lists_come_in_pages_and_others_are_for_administrators(door: Door) -> None:
    browser = await door.signed_in("lea")
    for _ in range(3):
        assert (await door.create(browser)).status_code == 201
    first = (await door.http.get("/control/v1/tokens?limit=2", headers=browser)).json()
    rest = (await door.http.get(f"/control/v1/tokens?limit=2&cursor={first['next_cursor']}", headers=browser)).json()
    assert len(first["items"]) == 2
    assert len({item["id"] for item in first["items"] + rest["items"]}) == 3
    assert rest["next_cursor"] is None
    path = f"/control/v1/tokens?principal={door.id_of('lea')}"
    administrator = await door.signed_in("mia", groups=("administrators",))
    assert len((await door.http.get(path, headers=administrator)).json()["items"]) == 3
    token_id = first["items"][0]["id"]
    stranger = await door.signed_in("nora")
    assert (await door.http.get(path, headers=stranger)).status_code == 403
    # What is not yours is not told apart from what is not there.
    for missing in (token_id, "tok_nothing"):
        assert (await door.http.delete(f"/control/v1/tokens/{missing}", headers=stranger)).status_code == 404
    assert (await door.http.delete(f"/control/v1/tokens/{token_id}", headers=administrator)).status_code == 204


async def test_a_person_with_a_token_of_the_provider_makes_one_too(door: Door) -> None:
    provider = bearer(door.issuer.token("olga", groups=["approvers"]))
    made = await door.create(provider, scopes=["approve"])
    assert made.status_code == 201, made.text
    verified = await door.services.tokens.verify(made.json()["token"])
    assert verified.identity.groups == {"approvers"}


async def test_what_ended_a_while_ago_is_removed(door: Door) -> None:
    browser = await door.signed_in("pia")
    made = (await door.create(browser)).json()
    door.clock.ahead = timedelta(days=20)
    assert await door.verifies(made["token"]) == "The token has expired."
    door.clock.ahead = timedelta(days=60)
    try:
        assert await door.sweep() > 0
        assert await door.sweep() == 0
        assert await door.verifies(made["token"]) == "The token is not known here."
    finally:
        door.clock.ahead = timedelta()


async def test_clients_learn_where_tokens_come_from(door: Door) -> None:
    resource = (await door.http.get("/.well-known/oauth-protected-resource")).json()
    assert resource["resource"] == PUBLIC_URL
    assert resource["authorization_servers"] == [PUBLIC_URL, door.issuer.url]
    assert set(resource["scopes_supported"]) == {"track", "registry", "promote", "approve", "resolve", "admin"}
    server = (await door.http.get("/.well-known/oauth-authorization-server")).json()
    assert server["issuer"] == PUBLIC_URL
    assert server["code_challenge_methods_supported"] == ["S256"]
    for name in ("token_endpoint", "revocation_endpoint", "device_authorization_endpoint"):
        path = server[name].removeprefix(PUBLIC_URL)
        assert (await door.http.post(path)).json()["error"] == "invalid_request"


@pytest.mark.parametrize("variables", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD"])
def test_mlflows_own_client_works_with_a_personal_token(service: Countersign, variables: str) -> None:
    asked = {"name": variables[:30], "scopes": ["track"], "expires_in_days": 1}
    made = service.call("scientist", "POST", "/tokens", json=asked)
    assert made.status_code == 201, made.text
    token = made.json()["token"]
    given = dict(zip(variables.split(), ["anybody", token] if " " in variables else [token], strict=True))
    script = "import mlflow; print(len(mlflow.MlflowClient().search_experiments()))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "MLFLOW_TRACKING_URI": service.url, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", **given},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1
    assert token not in service.log("gateway")


@pytest.mark.parametrize("kind", ["ours", "the provider's"])
async def test_a_token_that_was_seen_costs_no_statement(door: Door, kind: str) -> None:
    if kind == "ours":
        token = (await door.create(await door.signed_in("quinn"), name="seen", scopes=["track"])).json()["token"]
    else:
        token = door.issuer.token("quinn", groups=["approvers"])
    scope = {
        "method": "GET",
        "path": "/",
        "headers": [(b"authorization", f"Bearer {token}".encode())],
        "client": ("192.0.2.1", 1),
    }
    authenticate = door.services.authentication.authenticate
    first = await authenticate(scope)
    statements: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    engine = door.database._engine.sync_engine
    sa.event.listen(engine, "before_cursor_execute", count)
    try:
        # What the first request left behind is read once more if the epoch moved meanwhile, and not after that.
        for _ in range(3):
            before = len(statements)
            assert await authenticate(scope) == first
        assert len(statements) == before
    finally:
        sa.event.remove(engine, "before_cursor_execute", count)
