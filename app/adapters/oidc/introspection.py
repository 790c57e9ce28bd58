"""Asks an issuer what one of its opaque tokens is (RFC 7662)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import structlog

from app.adapters.oidc.client_authentication import ClientAuthentication
from app.adapters.oidc.documents import Documents, Refused
from app.adapters.oidc.metadata import Metadata
from app.domain.claims import (
    check_audience,
    check_is_access_token,
    check_rules,
    check_times,
    credential_of,
    groups_in,
    identity_of,
    refused,
)
from app.domain.errors import NotAuthenticated, Unavailable
from app.domain.identity import Verified
from app.domain.issuers import Introspection, TrustedIssuer

_log = structlog.stdlib.get_logger(__name__)


class Introspector:
    """Our client at one issuer's introspection endpoint."""

    def __init__(self, trusted: TrustedIssuer, settings: Introspection, metadata: Metadata) -> None:
        self._trusted, self._settings, self._metadata = trusted, settings, metadata
        # Connections of its own: made-up tokens must not keep us from the issuer's keys.
        self._documents = Documents(trusted.ca_file)
        self._client = ClientAuthentication(settings.client_id, settings.client_secret)

    async def close(self) -> None:
        await self._documents.close()

    async def ensure(self) -> None:
        """Raises ``Unavailable`` if it is not known where to ask."""
        await self._endpoint()

    async def verify(self, token: str, *, now: float) -> Verified | None:
        """What a token says; none if the issuer does not know it.

        Raises:
            NotAuthenticated: it is good, but not for us.
            Unavailable: the endpoint does not answer as it should.
        """
        answer = await self._ask(token)
        active = answer.get("active")
        if not isinstance(active, bool):
            raise self._unavailable("no `active`")
        return await self._judged(token, answer, now) if active else None

    async def _judged(self, token: str, answer: Mapping[str, Any], now: float) -> Verified:
        trusted = self._trusted
        if answer.get("iss", trusted.issuer) != trusted.issuer:
            raise refused("comes from another issuer")
        # Without an audience it is the client that tells to whom the token was given, if there is a rule about it.
        if "aud" in answer or "client_id" not in trusted.claim_rules:
            check_audience(trusted, answer)
        expires_at = check_times(answer, leeway_s=trusted.leeway_s, now=now)
        check_is_access_token(answer)
        answer = await self._with_userinfo(token, answer)
        check_rules(trusted, answer)
        believed_until = now + self._settings.remember_s
        return Verified(
            identity=identity_of(trusted, answer, client=_client(answer)),
            credential=credential_of(answer, now=now),
            expires_at=believed_until if expires_at is None else min(expires_at, believed_until),
        )

    async def _with_userinfo(self, token: str, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer, with what only the userinfo endpoint says of a person: many providers leave out their groups, and
        some the subject too, which RFC 7662 section 2.2 leaves to them.

        Raises:
            NotAuthenticated: it told of somebody else.
            Unavailable: it is there and did not answer: a denial may be for one of the groups.
        """
        if _client(answer) is not None or ("sub" in answer and groups_in(self._trusted, answer) is not None):
            return answer
        try:
            metadata = await self._metadata.get()
        except Unavailable:
            if self._settings.endpoint is None:
                raise
            return answer  # a server that has an endpoint and no metadata has no userinfo either
        if "userinfo_endpoint" not in metadata:
            return answer
        endpoint = await self._metadata.endpoint("userinfo_endpoint")
        try:
            said = await self._documents.get(endpoint, {"Authorization": f"Bearer {token}"})
        except Refused as error:
            if error.status not in {400, 401, 403}:
                raise self._unavailable(str(error)) from None
            if "sub" in answer:
                return answer
            raise refused("does not say whose it is: ask for it with the scope `openid`") from None
        except httpx.HTTPError as error:
            raise self._unavailable(type(error).__name__) from None
        if said.get("sub") != answer.get("sub", said.get("sub")):
            raise refused("is somebody else's, as the userinfo of its issuer says")
        return {**said, **answer}

    async def _ask(self, token: str) -> dict[str, Any]:
        endpoint = await self._endpoint()
        form = {"token": token, "token_type_hint": "access_token"}
        why = "no client authentication in common"
        supported = None
        if self._settings.endpoint is None:
            supported = (await self._metadata.get()).get("introspection_endpoint_auth_methods_supported")
        for way in self._client.ways(supported):
            sent, headers = self._client.apply(way, form)
            try:
                answer = await self._documents.post(endpoint, sent, headers)
            except Refused as error:
                why = str(error)
                if error.status not in {400, 401, 403}:
                    break
            except httpx.HTTPError as error:
                why = type(error).__name__
                break
            else:
                self._client.worked(way)
                return answer
        raise self._unavailable(why)

    async def _endpoint(self) -> str:
        return self._settings.endpoint or await self._metadata.endpoint("introspection_endpoint")

    def _unavailable(self, why: str) -> Unavailable:
        _log.warning("introspection_failed", issuer=self._trusted.name, why=why)
        return Unavailable(f"The identity provider {self._trusted.name} does not say whether the token is good.")


async def first_active(introspectors: list[Introspector], token: str, *, now: float) -> Verified:
    """Ask one after the other until one knows the token.

    Raises:
        NotAuthenticated: none does, or it is not for us.
        Unavailable: none does, and one did not answer.
    """
    away: Unavailable | None = None
    for introspector in introspectors:
        try:
            if found := await introspector.verify(token, now=now):
                return found
        except Unavailable as error:
            away = error
    raise away or NotAuthenticated("The token is not known to its issuer.", error="invalid_token")


def _client(answer: Mapping[str, Any]) -> str | None:
    """The client, if the token is its own: given for client credentials, and so without a person."""
    client = answer.get("client_id")
    of_somebody = answer.get("sub") is not None or answer.get("username") is not None
    return client if isinstance(client, str) and client and not of_somebody else None
