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
    return await asyncio.to_thread(_answers, url, headers or {}, timeout_s)


def _answers(url: str, headers: Mapping[str, str], timeout_s: float) -> bool:
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310  # our own addresses only
    try:
        with _DIRECT.open(request, timeout=timeout_s) as response:
            return bool(response.status < 300)
    except (urllib.error.URLError, http.client.HTTPException, OSError):
        return False
