"""The door in this process: the routers that know people and tokens, on a real database, with a clock that may move."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import unescape
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import asyncpg
import httpx
from fastapi import APIRouter, FastAPI

from app.adapters.oidc import TrustedIssuers
from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.freshness import IdentityFreshness
from app.adapters.postgres.unit_of_work import Database
from app.domain.access import Role
from app.domain.clients import clients_from_documents
from app.domain.discovery import Discovery
from app.domain.grants import grants_of_roles
from app.domain.identity import Identity, PrincipalKind
from app.domain.issuers import TrustedIssuer
from app.domain.sessions import Lifetimes, Session, cookies_of
from app.routers import consent, oauth
from app.routers import tokens as tokens_router
from app.routers.browser_pages import PagesForBrowsers
from app.routers.cross_origin import CrossOriginAccess
from app.routers.problems import install_problem_handlers
from app.services.authentication import Authentication
from app.services.granting import GrantBook
from app.services.identifiers import new_id
from app.services.logins import Logins
from app.services.principals import Noticing
from app.services.recording import AuditTrail
from app.services.sessions import Sessions
from app.services.throttling import Throttle
from app.services.token_exchange import TokenExchange
from app.services.tokens import Tokens
from tests.issuer import AUDIENCE, Issuer

PUBLIC_URL = "https://countersign.example"
CLI = "countersign-cli"
DASHBOARD = "https://dashboard.example"
CLIENTS = [
    {
        "clientId": "dashboard",
        "title": "Model <b>dashboard</b>",
        "redirectUris": [f"{DASHBOARD}/signed-in?kept=1"],
        "origins": [DASHBOARD],
        "scopes": ["promote", "approve"],
    }
]
LISTED_ORIGIN = "https://other.example"
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT = "urn:ietf:params:oauth:token-type:jwt"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
FROM_HERE = {"Origin": PUBLIC_URL, "Sec-Fetch-Site": "same-origin"}


@dataclass
class MovableClock:
    """The present, and what a test adds to it."""

    ahead: timedelta = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Pkce:
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))

    @property
    def challenge(self) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")


@dataclass
class Door:
    """The gateway's own side, people with sessions, and what clients of ours do."""

    http: httpx.AsyncClient
    database: Database
    database_url: str
    issuer: Issuer
    clock: MovableClock
    services: Any

    async def signed_in(
        self, who: str, *, groups: tuple[str, ...] = (), kind: str = "person", acr: str | None = None
    ) -> dict[str, str]:
        """The headers of a browser in which somebody is signed in."""
        secret, now = secrets.token_urlsafe(32), self.clock.now()
        identity = Identity(self.issuer.url, who, who.title(), PrincipalKind(kind), frozenset(groups))
        session = Session(
            id=new_id("ses"),
            principal_id=identity.id,
            principal_name=identity.name,
            provider="default",
            created_at=now,
            authenticated_at=now,
            last_seen_at=now,
            expires_at=now + timedelta(days=1),
            address="192.0.2.1",
            user_agent="Firefox",
            acr=acr,
        )
        async with self.database.unit_of_work() as work:
            await work.principals.vouch(identity, at=now)
            await work.sessions.add(session, secret=secret, provider_session=None, logout_hint=None)
            await work.commit()
        return {"Cookie": f"{cookies_of(PUBLIC_URL).session}={secret}", **FROM_HERE}

    def id_of(self, who: str) -> str:
        return f"{self.issuer.url}|{who}"

    async def disable(self, who: str) -> None:
        async with self.database.unit_of_work() as work:
            assert await work.principals.set_disabled(self.id_of(who), at=self.clock.now(), by="an administrator")
            work.forget_callers()
            await work.commit()

    async def me(self, token: str) -> httpx.Response:
        """What the gateway says of the bearer of a token."""
        return await self.http.get("/control/v1/tokens", headers={"Authorization": f"Bearer {token}"})

    async def verifies(self, token: str) -> str | None:
        """Why a token of ours is refused; none if it is good. Nothing is remembered."""
        from app.domain.errors import NotAuthenticated

        try:
            await self.services.tokens.verify(token)
        except NotAuthenticated as error:
            return error.message
        return None

    async def create(self, headers: Mapping[str, str], **changed: object) -> httpx.Response:
        body = {"name": f"token {secrets.token_hex(4)}", "scopes": ["track"], "expires_in_days": 1, **changed}
        return await self.http.post("/control/v1/tokens", json=body, headers=headers)

    async def token(self, **form: str) -> httpx.Response:
        return await self.http.post("/auth/token", data=form)

    async def device_login(
        self, browser: Mapping[str, str], scope: str = "track promote approve admin"
    ) -> dict[str, Any]:
        """A command line that a person signed in to."""
        asked = (await self.http.post("/auth/device_authorization", data={"client_id": CLI, "scope": scope})).json()
        decided = await self.http.post(
            "/auth/device", data={"user_code": asked["user_code"], "decision": "allow"}, headers=browser
        )
        assert decided.status_code == 200, decided.text
        answer = await self.token(grant_type=DEVICE, device_code=asked["device_code"], client_id=CLI)
        assert answer.status_code == 200, answer.text
        granted: dict[str, Any] = answer.json()
        return granted

    async def code_login(self, browser: Mapping[str, str], scope: str = "promote") -> dict[str, Any]:
        """The dashboard, after a person signed in to it."""
        pkce = Pkce()
        answer = await self.redeem(await self.code(browser, pkce, scope=scope), pkce)
        assert answer.status_code == 200, answer.text
        granted: dict[str, Any] = answer.json()
        return granted

    async def code(self, browser: Mapping[str, str], pkce: Pkce, **changed: str) -> str:
        """The code that a person's word gives the dashboard."""
        form = self.request(pkce, **changed) | {"decision": "allow"}
        answer = await self.http.post("/auth/authorize", data=form, headers=browser)
        assert answer.status_code == 303, answer.text
        return answered(answer)["code"]

    def request(self, pkce: Pkce, **changed: str) -> dict[str, str]:
        return {
            "client_id": "dashboard",
            "redirect_uri": CLIENTS[0]["redirectUris"][0],  # type: ignore[dict-item]
            "response_type": "code",
            "scope": "promote",
            "state": "state & more",
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
            **changed,
        }

    async def redeem(self, code: str, pkce: Pkce, **changed: str) -> httpx.Response:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": "dashboard",
            "redirect_uri": CLIENTS[0]["redirectUris"][0],
            "code_verifier": pkce.verifier,
            **changed,
        }
        return await self.token(**form)  # type: ignore[arg-type]

    async def refresh(self, refresh_token: str, client_id: str = CLI, **more: str) -> httpx.Response:
        return await self.token(grant_type="refresh_token", refresh_token=refresh_token, client_id=client_id, **more)

    async def exchange(self, subject_token: str, **changed: str) -> httpx.Response:
        form = {"grant_type": EXCHANGE, "subject_token": subject_token, "subject_token_type": JWT, "scope": "track"}
        return await self.token(**form | changed)

    async def sweep(self) -> int:
        """Remove what ended a while ago; how much."""
        async with self.database.unit_of_work() as work:
            now = self.clock.now()
            removed = await work.tokens.sweep(now) + await work.logins.sweep(now)
            await work.commit()
        return removed

    async def audit(self) -> list[Mapping[str, Any]]:
        """Every entry of the log."""
        async with self.database.unit_of_work() as work:
            return [item.document for item in await work.audit.page(limit=10_000)]

    async def actions(self, object_id: str) -> list[str]:
        return [str(entry["action"]) for entry in await self.audit() if entry["object"] == object_id]

    async def everything_kept(self) -> str:
        """All rows of all tables, as text."""
        connection = await asyncpg.connect(self.database_url)
        try:
            names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            rows = [await connection.fetch(f'SELECT t::text FROM "{row["tablename"]}" t') for row in names]
        finally:
            await connection.close()
        return "\n".join(row[0] for table in rows for row in table)


def answered(answer: httpx.Response) -> dict[str, str]:
    """What is in the query of a redirect."""
    return dict(parse_qsl(urlsplit(answer.headers["location"]).query))


def fields_of(page: str) -> dict[str, str]:
    """The hidden fields of a form, as a browser would send them."""
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page)
    return {unescape(name): unescape(value) for name, value in found}


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait until what is asked for is so."""
    deadline = time.monotonic() + 20
    while not await condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def open_door(database_url: str, issuer: Issuer, *, rate: int = 100_000) -> AsyncIterator[Door]:
    """``rate``: refusals that one address may cause in a minute."""
    async with AsyncExitStack() as stack:
        clock, database = MovableClock(), Database(database_url)
        stack.push_async_callback(database.close)
        changes = PostgresChanges(database_url)
        changes.start()
        stack.push_async_callback(changes.close)
        freshness = IdentityFreshness(database_url, changes)
        freshness.start()
        stack.push_async_callback(freshness.close)
        issuers = TrustedIssuers(
            [
                TrustedIssuer(
                    name="default",
                    issuer=issuer.url,
                    audiences=frozenset({AUDIENCE}),
                    service_groups=frozenset({"services"}),
                )
            ],
            clock,
        )
        stack.push_async_callback(issuers.close)
        work = database.unit_of_work
        audit, refusals = AuditTrail(work, clock), Throttle(rate)
        tokens = Tokens(work, clock, longest_days=30, most=3)
        stack.push_async_callback(tokens.close)
        clients = clients_from_documents(CLIENTS)
        sessions = Sessions(
            work,
            clock,
            lifetimes=Lifetimes(idle=timedelta(hours=8), absolute=timedelta(days=1)),
            providers={"default": issuer.url},
        )
        roles = {Role.ADMINISTRATOR: ["administrators"], Role.APPROVER: ["approvers"], Role.VIEWER: ["*"]}
        authentication = Authentication(
            issuers=issuers,
            tokens=tokens,
            sessions=sessions,
            book=GrantBook(work, freshness, grants_of_roles(roles)),
            freshness=freshness,
            audit=audit,
            refusals=refusals,
            clock=clock,
            public_url=PUBLIC_URL,
            cookie=cookies_of(PUBLIC_URL).session,
            noticed=Noticing(work),
        )
        services = SimpleNamespace(
            authentication=authentication,
            tokens=tokens,
            logins=Logins(work, clock, clients=clients, lifetime=timedelta(days=7), attempts=Throttle(rate)),
            exchange=TokenExchange(work, clock, issuers=issuers, tokens=tokens, public_url=PUBLIC_URL),
            discovery=Discovery(PUBLIC_URL, [issuer.url]),
            sessions=sessions,
            refusals=refusals,
            audit=audit,
            pages=PagesForBrowsers(PUBLIC_URL),
            public_url=PUBLIC_URL,
        )
        app, control = FastAPI(), APIRouter(prefix="/control/v1")
        control.include_router(tokens_router.router)
        for router in (control, oauth.router, consent.router):
            app.include_router(router)
        install_problem_handlers(app)
        app.state.services = services
        transport = httpx.ASGITransport(CrossOriginAccess(app, {*clients.origins, LISTED_ORIGIN}))
        http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url=PUBLIC_URL))
        door = Door(http, database, database_url, issuer, clock, services)

        async def knows() -> bool:
            return freshness.epoch() is not None

        await until(knows, "what is remembered of callers")
        yield door
