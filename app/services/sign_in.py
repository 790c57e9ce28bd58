"""How a person signs in with a browser, and out: the steps between our page, a provider and a session."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

from app.adapters.postgres.sessions import SignInBegun
from app.domain.audit import ANONYMOUS, Actor, Entry
from app.domain.errors import CountersignError, NotAuthenticated, NotFound, SignInFailed, Unavailable
from app.domain.identity import Identity, digest_of
from app.domain.issuers import TrustedIssuer
from app.domain.problems import problem_of
from app.domain.sessions import (
    SIGN_IN_LASTS,
    EndReason,
    Lifetimes,
    Session,
    StepUp,
    has_form_of_secret,
    safe_return,
)
from app.ports import Clock, LoggedOut, RelyingParty, SignedIn
from app.services.identifiers import new_id
from app.services.recording import UnitOfWorkFactory
from app.services.sessions import record_ends
from app.services.throttling import Throttle, key_of

STARTS_PER_REFUSAL = 10
"""How many more sign-ins may be begun than may be refused: a whole office may have one address."""
LONGEST_USER_AGENT = 300
LONGEST_PARAMETER = 4096

AGAIN = "Start again."


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider where people sign in: what we trust of it, and our side of the sign-in."""

    trusted: TrustedIssuer
    party: RelyingParty

    @property
    def name(self) -> str:
        return self.trusted.name

    @property
    def title(self) -> str:
        """What people call it; its host if nobody said."""
        given = self.trusted.sign_in.title if self.trusted.sign_in else ""
        return given or urlsplit(self.trusted.issuer).hostname or self.trusted.name


@dataclass(frozen=True, slots=True)
class Browser:
    """Who asks. ``binding`` and ``session`` are the cookies of ours that came along."""

    address: str
    user_agent: str
    binding: str | None = field(default=None, repr=False)
    session: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Begun:
    """Where the browser goes now, and the cookie that ties the sign-in to it."""

    url: str
    binding: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Finished:
    """Where the person goes now, and the new session's cookie."""

    return_to: str
    secret: str = field(repr=False)
    lasts_s: int


class SignIn:
    """See the module.

    Args:
        unit_of_work: opens transactions.
        clock: the time.
        providers: where people may sign in, in the order of the page.
        lifetimes: how long sessions last.
        public_url: our address.
        refusals_per_minute: how many refused sign-ins one address may have before it must wait.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        clock: Clock,
        *,
        providers: Sequence[Provider],
        lifetimes: Lifetimes,
        public_url: str,
        refusals_per_minute: int,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._providers = {provider.name: provider for provider in providers}
        self._lifetimes = lifetimes
        self._public_url = public_url
        self._refusals = Throttle(refusals_per_minute)
        self._starts = Throttle(refusals_per_minute * STARTS_PER_REFUSAL)

    @property
    def providers(self) -> Sequence[Provider]:
        """Where people may sign in."""
        return tuple(self._providers.values())

    async def start(
        self, name: str, return_to: str | None, browser: Browser, *, step_up: StepUp | None = None
    ) -> Begun:
        """Begin a sign-in at a provider; with ``step_up``, one at which they prove anew who they are.

        Raises:
            NotFound: there is no such provider. Unavailable: it is away. TooManyRequests: too many were begun.
        """
        provider = self._provider(name)
        self._starts.hit(key_of(browser.address))
        now = self._clock.now()
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        # One value for all tabs of a browser: the one that began last must not undo the others.
        known = browser.binding
        binding = known if known is not None and has_form_of_secret(known) else secrets.token_urlsafe(32)
        url = await provider.party.authorization_url(
            redirect_uri=self._redirect_uri(name), state=state, nonce=nonce, verifier=verifier, step_up=step_up
        )
        begun = SignInBegun(
            browser_digest=digest_of(binding),
            provider=name,
            nonce=nonce,
            verifier=verifier,
            return_to=safe_return(return_to),
            expires_at=now + SIGN_IN_LASTS,
        )
        async with self._unit_of_work() as work:
            await work.sessions.begin(state, begun, at=now)
            await work.commit()
        return Begun(url, binding)

    async def finish(self, name: str, parameters: Mapping[str, str], browser: Browser) -> Finished:
        """Go on from a provider's answer to a new session.

        Raises:
            SignInFailed: the answer is not for this browser and this provider, or it does not verify; what to do is
                in the message. NotFound: there is no such provider. Unavailable: it is away. TooManyRequests: too many
                sign-ins from this address were refused.
        """
        provider = self._provider(name)
        try:
            begun = await self._take(provider, parameters, browser)
            signed_in = await provider.party.redeem(
                parameters, redirect_uri=self._redirect_uri(name), nonce=begun.nonce, verifier=begun.verifier
            )
            return await self._open(provider, begun, signed_in, browser)
        except SignInFailed as error:
            await self._record_refusal(provider, browser, error)
            raise

    async def sign_out(self, session: str | None) -> str | None:
        """End the session of a cookie; where the provider's own session is ended, if that can be."""
        if session is None or not has_form_of_secret(session):
            return None
        now = self._clock.now()
        async with self._unit_of_work() as work:
            found = await work.sessions.verify(session, lifetimes=self._lifetimes, now=now)
            if found is None:
                return None
            whose, principal = found
            actor = Actor(id=principal.identity.id, name=principal.identity.name)
            ended = await work.sessions.end(secret=session, by=actor.id, reason=EndReason.SIGNED_OUT, at=now)
            record_ends(work, ended, actor=actor, reason=EndReason.SIGNED_OUT, at=now)
            await work.commit()
        provider = self._providers.get(whose.provider)
        if provider is None or not ended:
            return None
        try:
            return await provider.party.logout_url(
                return_to=f"{self._public_url}/auth/signed-out", id_token=ended[0].logout_hint
            )
        except Unavailable:  # our own session has ended, which is what was asked for
            return None

    async def end_by_provider(self, name: str, logout_token: str, address: str) -> int:
        """End the sessions that a provider's logout token names (OpenID Connect Back-Channel Logout section 2.7); how
        many there were.

        Raises:
            NotAuthenticated: the token does not verify, or was used. NotFound: there is no such provider.
            TooManyRequests: too many tokens from this address were refused.
        """
        provider = self._provider(name)
        try:
            return await self._end_by_provider(provider, await provider.party.logged_out(logout_token))
        except NotAuthenticated as error:
            await self._record_refusal(provider, Browser(address, ""), error)
            raise

    async def _end_by_provider(self, provider: Provider, said: LoggedOut) -> int:
        now = self._clock.now()
        actor = Actor(id=f"provider:{provider.name}", name=provider.title)
        whose = None
        if said.subject is not None:
            whose = Identity(issuer=said.issuer, subject=said.subject, name="").id
        async with self._unit_of_work() as work:
            if not await work.sessions.spend(said.issuer, said.token_id, until=said.expires_at):
                raise NotAuthenticated("The logout token was used before.", error="invalid_token")
            ended = await work.sessions.end(
                provider=provider.name,
                provider_session=said.session,
                principal_id=whose,
                by=actor.id,
                reason=EndReason.PROVIDER,
                at=now,
            )
            record_ends(work, ended, actor=actor, reason=EndReason.PROVIDER, at=now)
            await work.commit()
        return len(ended)

    async def _take(self, provider: Provider, parameters: Mapping[str, str], browser: Browser) -> SignInBegun:
        """The sign-in that this answer is for, taken away: whatever comes of it, it cannot come twice."""
        if any(len(value) > LONGEST_PARAMETER for value in parameters.values()):
            raise SignInFailed(f"What the provider sent is too long. {AGAIN}")
        state = parameters.get("state", "")
        begun = None
        if has_form_of_secret(state):
            async with self._unit_of_work() as work:
                begun = await work.sessions.take(state)
                await work.commit()
        if begun is None:
            raise SignInFailed(f"This sign-in was used already, or is older than ten minutes. {AGAIN}")
        if begun.expires_at <= self._clock.now():
            raise SignInFailed(f"This sign-in took longer than ten minutes. {AGAIN}")
        if begun.provider != provider.name:
            raise SignInFailed(f"Another provider answered than the one that was asked. {AGAIN}")
        if browser.binding is None:
            raise SignInFailed(
                f"Your browser did not send the cookie that it was given. Allow cookies of this site, and use the "
                f"address {self._public_url}. {AGAIN}"
            )
        if not hmac.compare_digest(digest_of(browser.binding), begun.browser_digest):
            raise SignInFailed(f"This sign-in was begun in another browser. {AGAIN}")
        return begun

    async def _open(self, provider: Provider, begun: SignInBegun, signed_in: SignedIn, browser: Browser) -> Finished:
        now = self._clock.now()
        identity, secret = signed_in.identity, secrets.token_urlsafe(32)
        actor = Actor(id=identity.id, name=identity.name)
        session = Session(
            id=new_id("ses"),
            principal_id=identity.id,
            principal_name=identity.name,
            provider=provider.name,
            created_at=now,
            authenticated_at=signed_in.authenticated_at,
            acr=signed_in.acr,
            last_seen_at=now,
            expires_at=now + self._lifetimes.absolute,
            address=browser.address[:64],
            user_agent=browser.user_agent[:LONGEST_USER_AGENT],
        )
        async with self._unit_of_work() as work:
            known = await work.principals.get(identity.id)
            if known is not None and known.disabled_at is not None:
                raise SignInFailed(
                    f"{known.identity.name} may not sign in: an administrator has disabled this account."
                )
            await work.principals.vouch(identity, at=now)
            if known is not None and known.identity != identity:
                work.forget_callers()  # groups that are gone are gone for older sessions too
            if browser.session is not None and has_form_of_secret(browser.session):
                # The session that the browser had is not carried on: it may be one that somebody else put there.
                replaced = await work.sessions.end(
                    secret=browser.session, by=actor.id, reason=EndReason.REPLACED, at=now
                )
                record_ends(work, replaced, actor=actor, reason=EndReason.REPLACED, at=now)
            await work.sessions.add(
                session, secret=secret, provider_session=signed_in.session, logout_hint=signed_in.id_token
            )
            details = {"provider": provider.name, "address": session.address, "groups": sorted(identity.groups)}
            work.record(Entry(at=now, actor=actor, action="session.started", object_id=session.id, details=details))
            await work.commit()
        return Finished(begun.return_to, secret, int(self._lifetimes.absolute.total_seconds()))

    async def _record_refusal(self, provider: Provider, browser: Browser, error: CountersignError) -> None:
        """Count it first: nobody can fill the audit log by failing.

        Only refusals count, and after the fact: who fails from an address keeps nobody else of it from signing in.
        """
        self._refusals.hit(key_of(browser.address))
        details = {
            "problem": problem_of(error).slug,
            "message": error.message[:500],
            "address": browser.address[:64],
        }
        entry = Entry(
            at=self._clock.now(),
            actor=ANONYMOUS,
            action="sign_in.refused",
            object_id=provider.name,
            details=details,
        )
        async with self._unit_of_work() as work:
            work.record(entry)
            await work.commit()

    def _provider(self, name: str) -> Provider:
        provider = self._providers.get(name)
        if provider is None:
            raise NotFound("There is no such provider to sign in at.")
        return provider

    def _redirect_uri(self, name: str) -> str:
        return f"{self._public_url}/auth/callback/{quote(name, safe='')}"
