"""Our own pages without a gateway around them: the real routers, services and database, two providers, and a clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI

from app.adapters.oidc.relying_party import OidcRelyingParty
from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.freshness import IdentityFreshness
from app.adapters.postgres.unit_of_work import Database
from app.domain.clients import clients_from_documents
from app.domain.errors import NotAuthenticated
from app.domain.grants import grants_of_roles
from app.domain.identity import Verified
from app.domain.issuers import SignIn as Client
from app.domain.issuers import TrustedIssuer
from app.domain.roles import Role
from app.domain.sessions import Lifetimes, cookies_of
from app.routers import auth, records, sessions
from app.routers.browser_pages import PagesForBrowsers
from app.routers.problems import install_problem_handlers
from app.services.authentication import Authentication
from app.services.granting import GrantBook
from app.services.logins import Logins
from app.services.principals import Noticing
from app.services.recording import AuditTrail
from app.services.sessions import Sessions
from app.services.sign_in import Provider as SignInProvider
from app.services.sign_in import SignIn
from app.services.throttling import Throttle
from tests.provider import CLIENT, SECRET, Provider, address

PUBLIC_URL = "https://gateway.example"
SESSION = "__Host-countersign-session"
SIGN_IN = "__Host-countersign-sign-in"
PATIENCE_S = 30
LIFETIMES = Lifetimes(idle=timedelta(hours=8), absolute=timedelta(hours=24))


@dataclass
class TurnedClock:
    """The time, as far as a test has turned it on."""

    ahead: timedelta = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class NoTokens:
    """There are no tokens here, only sessions."""

    async def verify(self, secret: str) -> Verified:
        raise NotAuthenticated("There are no tokens here.", error="invalid_token")


@dataclass
class Desk:
    """The application, and what a test does past it."""

    app: FastAPI
    clock: TurnedClock
    database: Database
    services: Any
    providers: dict[str, Provider]
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def browser(self, *, address: str = "192.0.2.1", **headers: str) -> httpx.AsyncClient:
        """A browser with an empty cookie jar, at an address of its own."""
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.app, client=(address, 1234)),
            base_url=PUBLIC_URL,
            headers={"Accept": "text/html", "Origin": PUBLIC_URL, **headers},
        )
        self.clients.append(client)
        return client

    async def start(self, browser: httpx.AsyncClient, name: str = "one", return_to: str = "/") -> str:
        """Press a provider's button; the address the browser is sent to."""
        answer = await browser.get(address(f"/auth/sign-in/{name}", {"next": return_to}))
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    async def come_back(
        self, browser: httpx.AsyncClient, parameters: dict[str, str], name: str = "one"
    ) -> httpx.Response:
        return await browser.get(address(f"/auth/callback/{name}", parameters))

    async def sign_in(
        self, browser: httpx.AsyncClient, name: str = "one", *, return_to: str = "/", **person: Any
    ) -> httpx.Response:
        """The whole way, as whom the provider says it is."""
        provider = self.providers[name]
        provider.person |= person
        return await self.come_back(browser, provider.sign_in(await self.start(browser, name, return_to)), name)

    async def me(self, browser: httpx.AsyncClient) -> httpx.Response:
        """Whom the API takes a browser for."""
        return await browser.get("/control/v1/sessions", headers={"Accept": "application/json"})

    async def gone(self, browser: httpx.AsyncClient) -> None:
        """Wait until a session is good no more: a process forgets within a second what was ended elsewhere."""
        until = time.monotonic() + PATIENCE_S
        while (answer := await self.me(browser)).status_code != 401:
            assert time.monotonic() < until, answer.text
            await asyncio.sleep(0.01)

    async def audit(self) -> list[dict[str, Any]]:
        return [
            dict(entry.document) for entry in await self.services.audit.page(after=0, limit=1000, newest_first=False)
        ]


def trusted(name: str, provider: Provider, **changed: Any) -> TrustedIssuer:
    values: dict[str, Any] = {
        "name": name,
        "issuer": provider.url,
        "audiences": frozenset({"countersign"}),
        "service_groups": frozenset({"robots"}),
        "sign_in": Client(client_id=CLIENT, client_secret=SECRET, title=name.capitalize()),
    }
    return TrustedIssuer(**{**values, **changed})


@asynccontextmanager
async def open_desk(
    database_url: str,
    providers: dict[str, Provider],
    *,
    issuers: Sequence[TrustedIssuer] | None = None,
    refusals: int = 1000,
) -> AsyncIterator[Desk]:
    """Pages on a database, where people may sign in at ``providers``."""
    clock = TurnedClock()
    issuers = issuers or [trusted(name, provider) for name, provider in providers.items()]
    async with AsyncExitStack() as stack:
        database = Database(database_url)
        stack.push_async_callback(database.close)
        changes = PostgresChanges(database_url)
        changes.start()
        stack.push_async_callback(changes.close)
        freshness = IdentityFreshness(database_url, changes)
        freshness.start()
        stack.push_async_callback(freshness.close)
        work = database.unit_of_work
        parties = [SignInProvider(issuer, OidcRelyingParty(issuer, clock)) for issuer in issuers]
        for each in parties:
            stack.push_async_callback(each.party.close)  # type: ignore[attr-defined]  # of the class, not of the port
        audit = AuditTrail(work, clock)
        held = Sessions(work, clock, lifetimes=LIFETIMES, providers={issuer.name: issuer.issuer for issuer in issuers})
        book = GrantBook(
            work, freshness, grants_of_roles({Role.ADMINISTRATOR: ["administrators"], Role.REQUESTER: ["scientists"]})
        )
        authentication = Authentication(
            issuers=NoTokens(),
            tokens=NoTokens(),
            sessions=held,
            book=book,
            freshness=freshness,
            audit=audit,
            refusals=Throttle(refusals),
            clock=clock,
            public_url=PUBLIC_URL,
            cookie=cookies_of(PUBLIC_URL).session,
            noticed=Noticing(work),
        )
        services = SimpleNamespace(
            authentication=authentication,
            refusals=authentication._refusals,
            sign_in=SignIn(
                work,
                clock,
                providers=parties,
                lifetimes=LIFETIMES,
                public_url=PUBLIC_URL,
                refusals_per_minute=refusals,
            ),
            sessions=held,
            logins=Logins(
                work,
                clock,
                clients=clients_from_documents(None),
                lifetime=timedelta(days=7),
                attempts=Throttle(refusals),
            ),
            audit=audit,
            pages=PagesForBrowsers(PUBLIC_URL),
            public_url=PUBLIC_URL,
            token_days=90,
        )
        app = FastAPI()
        control = APIRouter(prefix="/control/v1")
        control.include_router(sessions.router)
        control.include_router(records.router)
        app.include_router(control)
        app.include_router(auth.router)
        install_problem_handlers(app)
        app.state.services = services
        desk = Desk(app, clock, database, services, providers)
        try:
            yield desk
        finally:
            for client in desk.clients:
                await client.aclose()
