"""Our side of a sign-in at one OpenID provider: authorization code flow with PKCE, and both ways of logging out.

OpenID Connect Core section 3.1, RFC 6749, RFC 7636, RFC 9207, and RFC 9700 (best current practice); RP-Initiated Logout
1.0 and Back-Channel Logout 1.0. Nothing here is particular to a provider: what one can do is read in its metadata.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
import structlog

from app.adapters.oidc.client_authentication import ClientAuthentication
from app.adapters.oidc.documents import CONNECTIONS, MAX_DOCUMENT_BYTES, Documents
from app.adapters.oidc.kept import Elapsed, monotonic
from app.adapters.oidc.keys import Keys
from app.adapters.oidc.metadata import Metadata
from app.adapters.oidc.signed import SignedToken
from app.adapters.oidc.strict import strict_object
from app.domain.claims import (
    CLIENT_CLAIMS,
    acr_of,
    authenticated_at,
    check_rules,
    check_times,
    claim_at,
    identity_of,
    texts,
)
from app.domain.errors import NotAuthenticated, SignInFailed, Unavailable
from app.domain.identity import check_subject
from app.domain.issuers import SignIn, TrustedIssuer
from app.domain.sessions import StepUp
from app.ports import Clock, LoggedOut, SignedIn

_log = structlog.stdlib.get_logger(__name__)

TIMEOUT_S = 10
LONGEST_SESSION_ID = 1024
"""Of ``sid`` and ``jti``, which some providers make of encrypted text."""
LONGEST_DESCRIPTION = 200
LONGEST_HINT = 6000
"""Characters of an ID token that is sent in the address of the logout endpoint: servers refuse long addresses."""
LOGOUT_TOKEN_FRESH_S = 300
"""Of a logout token without ``exp``, which providers before the final specification leave out."""
LOGOUT_TOKEN_TYPES = frozenset({"logout+jwt", "jwt", ""})
"""OpenID Connect Back-Channel Logout section 2.4; the type came late to it."""
ID_TOKEN_TYPES = frozenset({"jwt", ""})
LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
_HASHES = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}
_AGAIN = "Start again."
_TOKEN_ERRORS = frozenset({"invalid_grant", "invalid_client", "invalid_request", "unauthorized_client"})
"""Those of RFC 6749 section 5.2 that say what is wrong; others are not repeated."""
_REFUSALS: Mapping[str, str] = {
    "access_denied": "The provider did not let you in, or you did not agree.",
    "login_required": "The provider wants you to sign in there first.",
    "interaction_required": "The provider needs something from you before it can let you in.",
    "consent_required": "The provider needs your agreement first.",
    "account_selection_required": "The provider needs to know which of your accounts you mean.",
    "temporarily_unavailable": "The provider is busy. Wait a minute.",
    "server_error": "Something broke at the provider.",
    "unauthorized_client": "The provider does not let Countersign sign people in: tell your administrator.",
    "invalid_request": "The provider did not understand Countersign: tell your administrator.",
    "invalid_scope": "The provider refuses what Countersign asks for (scopes): tell your administrator.",
    "unsupported_response_type": "The provider does not offer the authorization code flow: tell your administrator.",
}
"""What a person is told, by the error code of RFC 6749 section 4.1.2.1 and OpenID Connect Core section 3.1.2.6. What
the provider says beside the code is not repeated: anybody can write an address."""


class OidcRelyingParty:
    """See ``app.ports.RelyingParty``.

    Args:
        trusted: the provider, with ``sign_in``.
        clock: the time.
        elapsed: see ``Kept``.
    """

    def __init__(self, trusted: TrustedIssuer, clock: Clock, *, elapsed: Elapsed = monotonic) -> None:
        if trusted.sign_in is None:
            raise ValueError(f"nobody signs in at {trusted.name}")
        self._trusted = trusted
        self._sign_in: SignIn = trusted.sign_in
        self._clock = clock
        self._documents = Documents(trusted.ca_file)
        self._metadata = Metadata(trusted, self._documents, elapsed=elapsed)
        self._keys = Keys(trusted, self._metadata, self._documents, elapsed=elapsed)
        self._http = httpx.AsyncClient(
            timeout=TIMEOUT_S,
            follow_redirects=False,
            verify=ssl.create_default_context(cafile=trusted.ca_file) if trusted.ca_file else True,
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=2),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )
        self._client = ClientAuthentication(trusted.sign_in.client_id, trusted.sign_in.client_secret)

    async def close(self) -> None:
        await self._keys.close()
        await self._metadata.close()
        await self._documents.close()
        await self._http.aclose()

    async def authorization_url(
        self, *, redirect_uri: str, state: str, nonce: str, verifier: str, step_up: StepUp | None = None
    ) -> str:
        metadata = await self._metadata.get()
        challenge = hashlib.sha256(verifier.encode()).digest()
        return _with_parameters(
            await self._metadata.endpoint("authorization_endpoint"),
            {
                "response_type": "code",
                "client_id": self._sign_in.client_id,
                "redirect_uri": redirect_uri,
                "scope": " ".join(_scopes(self._sign_in.scopes, metadata.get("scopes_supported"))),
                "state": state,
                "nonce": nonce,
                "code_challenge": _base64url(challenge),
                "code_challenge_method": "S256",
                **(_asked_anew(step_up) if step_up else {}),
            },
        )

    async def redeem(self, parameters: Mapping[str, str], *, redirect_uri: str, nonce: str, verifier: str) -> SignedIn:
        metadata = await self._metadata.get()
        self._check_issuer(parameters, metadata)
        if (error := parameters.get("error")) is not None:
            _log.info(
                "sign_in_refused_by_provider", provider=self._trusted.name, error=error if error in _REFUSALS else "?"
            )
            raise SignInFailed(f"{_REFUSALS.get(error, 'The provider refused the sign-in.')} {_AGAIN}")
        code = parameters.get("code")
        if not code:
            raise SignInFailed(f"The provider sent neither a code nor an error. {_AGAIN}")
        answer = await self._token(
            metadata,
            {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": verifier},
        )
        id_token, access_token = answer.get("id_token"), answer.get("access_token")
        if not isinstance(id_token, str):
            raise SignInFailed("The provider sent no ID token: tell your administrator.")
        access_token = access_token if isinstance(access_token, str) else None
        claims: Mapping[str, Any]
        try:
            claims = await self._id_token_claims(id_token, nonce=nonce, access_token=access_token)
        except NotAuthenticated as refusal:
            _log.warning("id_token_refused", provider=self._trusted.name, reason=refusal.message)
            raise SignInFailed(f"{refusal.message} {_AGAIN}") from None
        if access_token is not None and self._lacks(claims):
            claims = await self._with_userinfo(metadata, claims, access_token)
        try:
            # Rules on the client say whose access tokens are accepted; an ID token is our own client's.
            check_rules(self._trusted, claims, but=CLIENT_CLAIMS)
            identity = identity_of(self._trusted, claims)
        except NotAuthenticated as refusal:
            raise SignInFailed(_said_of(refusal, "ID token")) from None
        now = self._clock.now()
        return SignedIn(
            identity=identity,
            authenticated_at=authenticated_at(claims, now.timestamp()),
            session=_session_of(claims),
            id_token=id_token,
            acr=acr_of(claims),
        )

    async def logout_url(self, *, return_to: str, id_token: str | None) -> str | None:
        metadata = await self._metadata.get()
        if "end_session_endpoint" not in metadata:
            return None
        parameters = {"client_id": self._sign_in.client_id, "post_logout_redirect_uri": return_to}
        if id_token is not None and len(id_token) <= LONGEST_HINT:
            parameters["id_token_hint"] = id_token
        return _with_parameters(await self._metadata.endpoint("end_session_endpoint"), parameters)

    async def logged_out(self, logout_token: str) -> LoggedOut:
        claims, expires_at = await self._verified(logout_token, what="logout token", types=LOGOUT_TOKEN_TYPES)
        events, session = claims.get("events"), claims.get("sid")
        if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
            raise _invalid("logout token", "is none: it tells of no logout")
        if "nonce" in claims:
            raise _invalid("logout token", "has a nonce, which ID tokens alone have")
        token_id = claims.get("jti")
        if not isinstance(token_id, str) or not 0 < len(token_id) <= LONGEST_SESSION_ID:
            raise _invalid("logout token", "has no valid `jti` claim")
        if "sid" in claims and _session_of(claims) is None:
            raise _invalid("logout token", "has no valid `sid` claim")
        subject = check_subject(claims["sub"]) if "sub" in claims else None
        if session is None and subject is None:
            raise _invalid("logout token", "names neither a session nor a subject")
        if expires_at is None:
            expires_at = claims["iat"] + LOGOUT_TOKEN_FRESH_S
            if expires_at + self._trusted.leeway_s <= self._clock.now().timestamp():
                raise _invalid("logout token", "has expired")
        # Its id is remembered as long as it could be shown again.
        until = datetime.fromtimestamp(min(expires_at, LATEST), UTC) + timedelta(seconds=self._trusted.leeway_s)
        return LoggedOut(self._trusted.issuer, token_id, subject, session, until)

    def _check_issuer(self, parameters: Mapping[str, str], metadata: Mapping[str, Any]) -> None:
        """RFC 9207 section 2.4: before anything else in an answer is believed, errors too."""
        said = parameters.get("iss")
        if said is None:
            if metadata.get("authorization_response_iss_parameter_supported") is True:
                raise SignInFailed(f"The answer does not say which provider it comes from (`iss`). {_AGAIN}")
        elif not hmac.compare_digest(said.encode(), self._trusted.issuer.encode()):
            raise SignInFailed(f"Another provider answered than the one that was asked (`iss`). {_AGAIN}")

    async def _token(self, metadata: Mapping[str, Any], parameters: Mapping[str, str]) -> dict[str, Any]:
        """The answer of the token endpoint."""
        endpoint = await self._metadata.endpoint("token_endpoint")
        ways = self._client.ways(metadata.get("token_endpoint_auth_methods_supported"))
        if not ways:
            _log.error("no_client_authentication_in_common", provider=self._trusted.name)
            raise SignInFailed(
                "The provider wants another client authentication than a secret: tell your administrator."
            )
        refusals, said = [], ""
        for way in ways:
            form, headers = self._client.apply(way, parameters)
            status, answer = await self._ask(self._http.build_request("POST", endpoint, data=form, headers=headers))
            if status >= 500 or status == 429:
                raise Unavailable(f"{self._trusted.name}: the provider's token endpoint answered {status}.")
            error = str(answer.get("error"))
            if status == 200 or error == "invalid_grant":
                # It knew us. Where a refused attempt has used up the code, whoever starts again comes through.
                self._client.worked(way)
            if status == 200:
                return answer
            refusals.append(error if error in _TOKEN_ERRORS else f"status {status}")
            said = said or self._description(answer, form)
            if error == "invalid_grant":
                break
        _log.warning("code_not_redeemed", provider=self._trusted.name, refusals=refusals, said=said)
        if "invalid_grant" in refusals:
            raise SignInFailed(f"The provider did not accept the code that it gave. {_AGAIN}")
        if refusals[0] in {"invalid_client", "unauthorized_client"}:
            raise SignInFailed(
                f"The provider refuses Countersign's own client ({refusals[0]}): tell your administrator."
            )
        raise SignInFailed(f"The provider gave no tokens for its code ({refusals[0]}): tell your administrator.")

    def _description(self, answer: Mapping[str, Any], form: Mapping[str, str]) -> str:
        """What the provider says for its administrators (RFC 6749 section 5.2); nothing that repeats a secret."""
        said = str(answer.get("error_description", ""))
        secrets = {form.get("code"), form.get("code_verifier"), self._sign_in.client_secret} - {None, ""}
        return "" if any(str(secret) in said for secret in secrets) else said[:LONGEST_DESCRIPTION]

    async def _with_userinfo(
        self, metadata: Mapping[str, Any], claims: Mapping[str, Any], access_token: str
    ) -> Mapping[str, Any]:
        """The claims, with the userinfo endpoint's where the ID token has none (OpenID Connect Core section 5.3).

        Raises:
            Unavailable: the endpoint is there and did not answer: without its groups somebody might be let in whom a
                denial keeps out. SignInFailed: it told of somebody else.
        """
        if "userinfo_endpoint" not in metadata:
            return claims
        endpoint = await self._metadata.endpoint("userinfo_endpoint")
        headers = {"Authorization": f"Bearer {access_token}"}
        status, said = await self._ask(self._http.build_request("GET", endpoint, headers=headers))
        if status >= 500 or status == 429:
            raise Unavailable(f"{self._trusted.name}: the provider's userinfo endpoint answered {status}.")
        if status != 200 or not said:
            _log.warning("userinfo_not_given", provider=self._trusted.name, status=status)
            return claims
        if said.get("sub") != claims["sub"]:
            raise SignInFailed(f"The provider told of somebody else (`sub` of its userinfo). {_AGAIN}")
        return {**said, **claims}

    def _lacks(self, claims: Mapping[str, Any]) -> bool:
        wanted = (self._trusted.username_claim, self._trusted.groups_claim)
        return any(claim_at(claims, name) is None for name in wanted)

    async def _id_token_claims(self, token: str, *, nonce: str, access_token: str | None) -> dict[str, Any]:
        """OpenID Connect Core section 3.1.3.7."""
        claims, expires_at = await self._verified(token, what="ID token", types=ID_TOKEN_TYPES)
        check_subject(claims.get("sub"))
        if expires_at is None:
            raise _invalid("ID token", "has no valid `exp` claim")
        said = claims.get("nonce")
        if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):
            raise _invalid("ID token", "is not for this sign-in (`nonce`)")
        if (at_hash := claims.get("at_hash")) is not None and access_token is not None:
            expected = _half_hash(access_token, str(SignedToken.parse(token).header["alg"]))
            if not isinstance(at_hash, str) or not hmac.compare_digest(at_hash.encode(), expected.encode()):
                raise _invalid("ID token", "belongs to another access token (`at_hash`)")
        return claims

    async def _verified(self, token: str, *, what: str, types: frozenset[str]) -> tuple[dict[str, Any], float | None]:
        """What both kinds of token have in common: signature, issuer, audience and time. Its claims, and when it
        expires if it says so, in seconds since the epoch.

        Raises:
            NotAuthenticated: it does not verify.
        """
        try:
            parsed = SignedToken.parse(token)
            await parsed.verify(self._keys, algorithms=frozenset(self._trusted.algorithms), types=types)
            expires_at = check_times(parsed.claims, leeway_s=self._trusted.leeway_s, now=self._clock.now().timestamp())
        except NotAuthenticated as refusal:
            raise NotAuthenticated(_said_of(refusal, what), error="invalid_token") from None
        claims = parsed.claims
        if "iat" not in claims:
            raise _invalid(what, "has no valid `iat` claim")
        if claims.get("iss") != self._trusted.issuer:
            raise _invalid(what, "comes from another issuer")
        audiences = texts(claims.get("aud"))
        if not audiences or self._sign_in.client_id not in audiences:
            raise _invalid(what, "is for another audience")
        authorized = claims.get("azp")
        if authorized != self._sign_in.client_id and (authorized is not None or len(audiences) > 1):
            raise _invalid(what, "is for another client (`azp`)")
        return claims, expires_at

    async def _ask(self, request: httpx.Request) -> tuple[int, dict[str, Any]]:
        """The status and the JSON object of an answer; an empty one if it is something else.

        Raises:
            Unavailable: there is no answer.
        """
        try:
            # All of it: httpx limits each part, and a provider that drips would hold a person for ever.
            async with asyncio.timeout(TIMEOUT_S):
                response = await self._http.send(request, stream=True)
                try:
                    body = bytearray()
                    async for piece in response.aiter_raw():
                        body += piece
                        if len(body) > MAX_DOCUMENT_BYTES:
                            raise Unavailable(f"{self._trusted.name}: what the provider answered is too large.")
                finally:
                    await response.aclose()
        except (httpx.HTTPError, TimeoutError) as error:
            _log.warning("provider_does_not_answer", provider=self._trusted.name, error=type(error).__name__)
            raise Unavailable(f"{self._trusted.name}: the provider does not answer.") from None
        try:
            return response.status_code, strict_object(bytes(body))
        except ValueError:
            return response.status_code, {}


def _scopes(wanted: tuple[str, ...], supported: object) -> list[str]:
    """``openid``, and of the others those that the provider knows, where it says which."""
    known = {scope for scope in supported if isinstance(scope, str)} if isinstance(supported, list) else None
    others = dict.fromkeys(scope for scope in wanted if scope != "openid" and (known is None or scope in known))
    return ["openid", *others]


def _asked_anew(step_up: StepUp) -> dict[str, str]:
    """OpenID Connect Core section 3.1.2.1. ``max_age`` makes ``auth_time`` come back; some providers heed only
    ``prompt``. Whoever edits the address proves nothing by it: what counts is what the ID token says.
    """
    asked = {"max_age": str(step_up.max_age_s), "prompt": "login"}
    return asked | ({"acr_values": step_up.acr_values} if step_up.acr else {})


def _with_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """Parameters added to those that the address has (RFC 6749 section 3.1)."""
    parts = urlsplit(url)
    query = [*parse_qsl(parts.query, keep_blank_values=True), *parameters.items()]
    return urlunsplit(parts._replace(query=urlencode(query), fragment=""))


def _session_of(claims: Mapping[str, Any]) -> str | None:
    session = claims.get("sid")
    return session if isinstance(session, str) and 0 < len(session) <= LONGEST_SESSION_ID else None


def _half_hash(token: str, algorithm: str) -> str:
    """OpenID Connect Core section 3.1.3.6; Ed25519 hashes with SHA-512."""
    digest = _HASHES.get(algorithm[-3:], hashlib.sha512)(token.encode()).digest()
    return _base64url(digest[: len(digest) // 2])


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _said_of(refusal: NotAuthenticated, what: str) -> str:
    """A refusal in the words of another kind of token."""
    said = refusal.message.replace("access token", what)
    return f"The {what}{said.removeprefix('The token')}" if said.startswith("The token") else said


def _invalid(what: str, why: str) -> NotAuthenticated:
    return NotAuthenticated(f"The {what} {why}.", error="invalid_token")
