"""What an issuer says of itself: its discovery document (OpenID Connect Discovery section 4, RFC 8414)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from app.adapters.oidc.documents import Documents, Refused
from app.adapters.oidc.kept import LEAST_REFETCH_S, Elapsed, Kept, monotonic
from app.domain.errors import Unavailable
from app.domain.fields import is_safe_url
from app.domain.issuers import TrustedIssuer


class Metadata:
    """The document of one issuer, believed only if it names this issuer, letter by letter."""

    def __init__(self, trusted: TrustedIssuer, documents: Documents, *, elapsed: Elapsed = monotonic) -> None:
        self._issuer, self._name, self._documents = trusted.issuer, trusted.name, documents
        # More often than the keys, which need it: their next attempt must not find that this one has to wait.
        self._kept = Kept(self._fetch, what="metadata", of=trusted.name, elapsed=elapsed, every_s=LEAST_REFETCH_S / 5)

    async def get(self) -> Mapping[str, Any]:
        """The document.

        Raises:
            Unavailable: the issuer does not answer, and did not lately.
        """
        return await self._kept.get()

    async def endpoint(self, name: str) -> str:
        """An address that the document names, as ``token_endpoint``.

        Raises:
            Unavailable: there is none, or it is not https (http on loopback).
        """
        found = (await self.get()).get(name)
        if not is_safe_url(found):
            raise Unavailable(f"The identity provider {self._name} names no usable `{name}`.")
        return str(found)

    async def renew(self) -> None:
        """Fetch it now, if that was not just done: what it said was of no use."""
        await self._kept.renew()

    async def close(self) -> None:
        await self._kept.close()

    async def _fetch(self) -> Mapping[str, Any]:
        first, second = _addresses(self._issuer)
        try:
            document = await self._documents.get(first)
        except Refused as error:
            if error.status != 404:
                raise
            document = await self._documents.get(second)
        if document.get("issuer") != self._issuer:
            raise Refused(f"the document is of the issuer {str(document.get('issuer'))[:100]!r}")
        return document


def _addresses(issuer: str) -> tuple[str, str]:
    """Where OpenID providers have it, and where an OAuth server that is none has it (RFC 8414 section 3.1)."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    return (
        urlunsplit(parts._replace(path=f"{path}/.well-known/openid-configuration")),
        urlunsplit(parts._replace(path=f"/.well-known/oauth-authorization-server{path}")),
    )
