"""Asking a local server whether it answers, without a proxy in between and without an HTTP client library."""

from __future__ import annotations

import asyncio
import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


async def answers(url: str, headers: Mapping[str, str] | None = None, *, timeout_s: float = 2) -> bool:
    """Whether ``GET url`` is answered with a status below 300."""
    return await fetch(url, headers, timeout_s=timeout_s) is not None


async def fetch(url: str, headers: Mapping[str, str] | None = None, *, timeout_s: float = 2) -> bytes | None:
    """What ``GET url`` is answered with a status below 300; ``None`` when it is not."""
    return await asyncio.to_thread(_fetch, url, headers or {}, timeout_s)


def _fetch(url: str, headers: Mapping[str, str], timeout_s: float) -> bytes | None:
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310  # our own addresses only
    try:
        with _DIRECT.open(request, timeout=timeout_s) as response:
            content: bytes = response.read()
            return content if response.status < 300 else None
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return None
