"""What knows callers: issuers, sessions, tokens, sign-in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta

from app.adapters.identity_file import read_trusted
from app.adapters.oidc import TrustedIssuers
from app.adapters.oidc.relying_party import OidcRelyingParty
from app.adapters.postgres.changes import PostgresChanges
from app.adapters.postgres.freshness import IdentityFreshness
from app.adapters.postgres.unit_of_work import Database
from app.domain.clients import Clients
from app.domain.discovery import Discovery
from app.domain.grants import grants_of_roles
from app.domain.sessions import Lifetimes, cookies_of
from app.ports import Clock
from app.services.authentication import Authentication
from app.services.granting import GrantBook
from app.services.logins import Logins
from app.services.principals import Noticing
from app.services.recording import AuditTrail
from app.services.sessions import Sessions
from app.services.sign_in import Provider, SignIn
from app.services.throttling import Throttle
from app.services.token_exchange import TokenExchange
from app.services.tokens import Tokens
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class IdentityServices:
    """Who calls, and how they got in."""

    authentication: Authentication
    sessions: Sessions
    sign_in: SignIn
    tokens: Tokens
    logins: Logins
    exchange: TokenExchange
    discovery: Discovery
    refusals: Throttle
    check_alive: Callable[[], Awaitable[None]]
    clients: Clients
    has_sign_in: bool


async def open_identity(
    stack: AsyncExitStack,
    settings: Settings,
    database: Database,
    changes: PostgresChanges,
    clock: Clock,
    audit: AuditTrail,
) -> IdentityServices:
    """What knows callers; closed with the stack.

    Raises:
        InvalidConfiguration: of the issuers that are trusted, or of our own clients.
    """
    trusted, work = read_trusted(settings), database.unit_of_work
    issuers = TrustedIssuers(trusted.issuers, clock)
    stack.push_async_callback(issuers.close)
    providers = []
    for each in trusted.issuers:
        if each.sign_in:
            party = OidcRelyingParty(each, clock)
            stack.push_async_callback(party.close)
            providers.append(Provider(each, party))
    freshness = IdentityFreshness(settings.database_url.get_secret_value(), changes)
    freshness.start()
    stack.push_async_callback(freshness.close)
    lifetimes = Lifetimes(
        idle=timedelta(seconds=settings.session_idle_s), absolute=timedelta(seconds=settings.session_lifetime_s)
    )
    issuer_of = {provider.name: provider.trusted.issuer for provider in providers}
    sessions = Sessions(work, clock, lifetimes=lifetimes, providers=issuer_of)
    tokens = Tokens(work, clock, longest_days=settings.token_days, most=settings.tokens_per_person)
    stack.push_async_callback(tokens.close)
    refusals = Throttle(settings.sign_in_rate)
    return IdentityServices(
        authentication=Authentication(
            issuers=issuers,
            tokens=tokens,
            sessions=sessions,
            book=GrantBook(work, freshness, grants_of_roles(settings.roles)),
            freshness=freshness,
            audit=audit,
            refusals=refusals,
            clock=clock,
            public_url=settings.public_url,
            cookie=cookies_of(settings.public_url).session,
            noticed=Noticing(work),
        ),
        sessions=sessions,
        sign_in=SignIn(
            work,
            clock,
            providers=providers,
            lifetimes=lifetimes,
            public_url=settings.public_url,
            refusals_per_minute=settings.sign_in_rate,
        ),
        tokens=tokens,
        logins=Logins(
            work,
            clock,
            clients=trusted.clients,
            lifetime=timedelta(seconds=settings.login_lifetime_s),
            attempts=Throttle(settings.sign_in_rate),
        ),
        exchange=TokenExchange(work, clock, issuers=issuers, tokens=tokens, public_url=settings.public_url),
        discovery=Discovery(settings.public_url, [each.issuer for each in trusted.issuers if each.accepts_tokens]),
        refusals=refusals,
        check_alive=issuers.check_alive,
        clients=trusted.clients,
        has_sign_in=bool(providers),
    )
