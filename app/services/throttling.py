"""How often one address may be refused before it must wait: counted in this process, forgotten after a minute.

Only refusals count, and only against the address they came from, never against a name: nobody can lock out somebody
else by failing in their name.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from app.domain.errors import TooManyRequests

_ONE_SUBSCRIBER = 64
"""Bits of an IPv6 address that name a network; the rest its owner chooses (RFC 6177)."""
WAIT_S = 60


class Throttle:
    """At most so many refusals in any minute for each key."""

    def __init__(self, per_minute: int) -> None:
        self._limit = RateLimitItemPerMinute(per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def check(self, key: str) -> None:
        """Return if there may be another attempt. Counts nothing.

        Raises:
            TooManyRequests: not before a minute has passed.
        """
        if not self._limiter.test(self._limit, key):
            raise _wait()

    def hit(self, key: str) -> None:
        """Count one.

        Raises:
            TooManyRequests: it was one too many.
        """
        if not self._limiter.hit(self._limit, key):
            raise _wait()


def key_of(address: str) -> str:
    """What is counted for an address: itself, or the network of one subscriber of IPv6."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ip_network((parsed, _ONE_SUBSCRIBER), strict=False))
    return str(parsed)


def _wait() -> TooManyRequests:
    return TooManyRequests("Too many attempts from your address. Wait a minute, then try again.", retry_after_s=WAIT_S)
