"""Asks an issuer's servers for JSON documents: over https, without redirects, bounded in time and size."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from app.adapters.oidc.strict import strict_object
from app.domain.errors import InvalidConfiguration
from app.domain.fields import is_safe_url

MAX_DOCUMENT_BYTES = 512 * 1024
TIMEOUT_S = 5
CONNECTIONS = 16


class Refused(Exception):
    """The server answered with something that is not the document. Says the status or the reason, never the body."""

    def __init__(self, why: str, *, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


class Documents:
    """One issuer's servers. ``ca_file`` holds their certificate authority, if it is not a public one.

    Raises:
        InvalidConfiguration: the file cannot be read.
    """

    def __init__(self, ca_file: str | None = None, *, within_s: float = TIMEOUT_S) -> None:
        self._within_s = within_s
        try:
            trust: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca_file) if ca_file else True
        except (OSError, ssl.SSLError) as error:
            raise InvalidConfiguration(f"{ca_file} cannot be read as certificates: {type(error).__name__}.") from None
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT_S,
            follow_redirects=False,
            verify=trust,
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=2),
            # A small answer must not unfold into a large one.
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The object at an address.

        Raises:
            Refused: it is no https address (http on loopback), or what is there is not an object.
            httpx.HTTPError: the server does not answer.
        """
        return await self._ask("GET", url, headers=headers)

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> dict[str, Any]:
        """The object that answers a form; raises as ``get``."""
        return await self._ask("POST", url, data=form, headers=headers)

    async def _ask(self, method: str, url: str, **request: Any) -> dict[str, Any]:  # noqa: ANN401  # as httpx takes it
        if not is_safe_url(url):
            raise Refused("the address is not https")
        try:
            # The client's own limit is for each piece: one byte at a time could take for ever.
            async with asyncio.timeout(self._within_s):
                body = await self._read(method, url, **request)
        except TimeoutError:
            raise Refused(f"no whole answer within {self._within_s:g} s") from None
        try:
            return strict_object(body)
        except ValueError as error:
            raise Refused(f"the document is not a JSON object: {error}") from None

    async def _read(self, method: str, url: str, **request: Any) -> bytes:  # noqa: ANN401  # as httpx takes it
        async with self._client.stream(method, url, **request) as response:
            if response.status_code != httpx.codes.OK:
                raise Refused(f"status {response.status_code}", status=response.status_code)
            if response.headers.get("content-encoding", "identity") != "identity":
                raise Refused("the answer is compressed, which was not asked for")
            body = bytearray()
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise Refused("the document is too large")
        return bytes(body)
