"""How a client of ours proves to a provider who it is, at the endpoints that want to know (RFC 6749 section 2.3)."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from urllib.parse import quote_plus

BASIC, POST, NONE = "client_secret_basic", "client_secret_post", "none"
"""As metadata names them (RFC 8414 section 2)."""
BASIC_AS_IT_IS = "client_secret_basic, not encoded"
"""What servers want that leave out the encoding of RFC 6749 section 2.3.1; the same for most secrets."""


class ClientAuthentication:
    """One client at one provider. Metadata says all that a provider can, and not what it wants of this client: the ways
    are tried in turn, and the one that worked comes first from then on.
    """

    def __init__(self, client_id: str, client_secret: str | None) -> None:
        self._client_id, self._secret = client_id, client_secret
        self._worked: str | None = None

    def ways(self, supported: object) -> Sequence[str]:
        """Those to try.

        Args:
            supported: what the metadata says of this endpoint; anything but a list says nothing.
        """
        if self._secret is None:
            return (NONE,)
        listed = supported if isinstance(supported, list) and supported else [BASIC, POST]
        ways = [way for way in (BASIC, POST) if way in listed]
        if BASIC in ways and self._basic(BASIC) != self._basic(BASIC_AS_IT_IS):
            ways.append(BASIC_AS_IT_IS)
        if not ways and NONE in listed:
            ways = [NONE]
        return sorted(ways, key=lambda way: way != self._worked)

    def apply(self, way: str, form: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """A form and its headers, as they are sent."""
        if way in {BASIC, BASIC_AS_IT_IS}:
            return dict(form), {"Authorization": self._basic(way)}
        proof = {"client_id": self._client_id}
        if way == POST:
            proof["client_secret"] = self._secret or ""
        return {**form, **proof}, {}

    def worked(self, way: str) -> None:
        """Remember that the provider knew us by it."""
        self._worked = way

    def _basic(self, way: str) -> str:
        pair = [self._client_id, self._secret or ""]
        if way == BASIC:
            pair = [quote_plus(part) for part in pair]
        return "Basic " + base64.b64encode(":".join(pair).encode()).decode()
