"""Sends one webhook: signed after Standard Webhooks, to an address that was checked, without following redirects."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import httpx
from standardwebhooks import Webhook

from app.domain.deliveries import Attempt

TIMEOUT_S = 10
KEPT_RESPONSE_BYTES = 2048


class _NotAllowed(Exception):
    """The address is one that this receiver must not have."""


class WebhookSender:
    """See ``app.ports.WebhookSender``."""

    def __init__(self) -> None:
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False)

    async def close(self) -> None:
        await self._client.aclose()

    async def send(
        self, *, url: str, secret: str, message_id: str, payload: Mapping[str, object], number: int, private: bool
    ) -> tuple[Attempt, float | None]:
        started, clock = datetime.now(UTC), time.monotonic()
        status: int | None = None
        error: str | None = None
        answer, retry_after = "", None
        try:
            request = await self._request(url, secret, message_id, payload, started, private=private)
            async with asyncio.timeout(TIMEOUT_S):
                response = await self._client.send(request, stream=True)
                try:
                    status, retry_after = response.status_code, _retry_after(response)
                    answer = await _beginning(response)
                finally:
                    await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError, ValueError, _NotAllowed) as failure:
            error = f"{type(failure).__name__.lstrip('_')}: {failure}".rstrip(": ")
        duration = round((time.monotonic() - clock) * 1000)
        return Attempt(number, started, duration, status, error, answer), retry_after

    async def _request(
        self, url: str, secret: str, message_id: str, payload: Mapping[str, object], at: datetime, *, private: bool
    ) -> httpx.Request:
        body = json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
        target = httpx.URL(url)
        address = await _checked_address(target, private=private)
        # Connecting to the address that was checked leaves no room for a second, different look-up.
        return self._client.build_request(
            "POST",
            target.copy_with(host=address),
            content=body,
            headers={
                "host": target.netloc.decode(),
                "content-type": "application/cloudevents+json; charset=utf-8",
                "user-agent": "countersign-webhooks/1",
                "webhook-id": message_id,
                "webhook-timestamp": str(int(at.timestamp())),
                "webhook-signature": Webhook(secret).sign(message_id, at, body.decode()),
            },
            extensions={"sni_hostname": target.host},
        )


async def _checked_address(url: httpx.URL, *, private: bool) -> str:
    if url.scheme not in {"http", "https"}:
        raise _NotAllowed("only http and https are sent to")
    port = url.port or (443 if url.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
    address = str(found[0][4][0])
    if not private and not ipaddress.ip_address(address.partition("%")[0]).is_global:
        raise _NotAllowed(f"{url.host} is a private address, and the target does not allow private networks")
    return address


async def _beginning(response: httpx.Response) -> str:
    kept = b""
    async for piece in response.aiter_bytes():
        kept += piece
        if len(kept) >= KEPT_RESPONSE_BYTES:
            break
    # PostgreSQL's text holds no NUL.
    return kept[:KEPT_RESPONSE_BYTES].decode("utf-8", errors="replace").replace("\x00", "�")


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 7 else None
