"""Who is calling: the bearer token of a request, verified (RFC 6750)."""

from __future__ import annotations

from collections.abc import Iterable

from app.domain.access import Principal
from app.domain.errors import NotAuthenticated
from app.ports import IdentityProvider


class Authentication:
    def __init__(self, provider: IdentityProvider) -> None:
        self._provider = provider

    async def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """The principal of a request.

        Raises:
            NotAuthenticated: there is no token, more than one, or it does not verify.
            Unavailable: the issuer's keys cannot be had.
        """
        values = [value for name, value in headers if name.lower() == b"authorization"]
        if not values:
            raise NotAuthenticated("Send an access token: Authorization: Bearer <token>.")
        if len(values) > 1:
            raise NotAuthenticated("Exactly one Authorization header is expected.", error="invalid_request")
        scheme, _, token = values[0].strip().partition(b" ")
        token = token.strip()
        if scheme.lower() != b"bearer" or not token or not token.isascii():
            raise NotAuthenticated("Expected Authorization: Bearer <token>.", error="invalid_request")
        return await self._provider.verify(token.decode())
