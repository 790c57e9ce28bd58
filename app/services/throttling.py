"""How often one address may be refused before it must wait: counted in this process, forgotten after a minute.

Only refusals count, and only against the address they came from, never against a name: nobody can lock out somebody
else by failing in their name.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network

from app.domain.errors import TooManyRequests

_ONE_SUBSCRIBER = 64
"""Bits of an IPv6 address that name a network; the rest its owner chooses (RFC 6177)."""
WAIT_S = 60
MOST_KEYS = 100_000
"""That are counted at a time: with more, those are forgotten that were quiet the longest."""


class Throttle:
    """At most so many refusals in any minute for each key.

    Args:
        per_minute: how many.
        elapsed: seconds since any moment, never backwards: a clock that is set must not keep anybody out.
    """

    def __init__(self, per_minute: int, *, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._most = per_minute
        self._elapsed = elapsed
        self._hits: OrderedDict[str, deque[float]] = OrderedDict()
        """When each key was counted; the key that was counted last is at the end."""

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._hits)

    def check(self, key: str) -> None:
        """Return if there may be another attempt. Counts nothing.

        Raises:
            TooManyRequests: not before a minute has passed.
        """
        if len(self._lately(key)) >= self._most:
            raise _wait()

    def hit(self, key: str) -> None:
        """Count one.

        Raises:
            TooManyRequests: it was one too many.
        """
        self.check(key)
        self._hits.setdefault(key, deque()).append(self._elapsed())
        self._hits.move_to_end(key)
        self._forget()

    def _lately(self, key: str) -> deque[float]:
        hits = self._hits.get(key, deque())
        while hits and self._is_over(hits[0]):
            hits.popleft()
        return hits

    def _forget(self) -> None:
        """Keys of more than a minute ago: whoever comes from ever new addresses fills no memory."""
        while self._hits:
            hits = next(iter(self._hits.values()))
            if len(self._hits) <= MOST_KEYS and hits and not self._is_over(hits[-1]):
                return
            self._hits.popitem(last=False)

    def _is_over(self, at: float) -> bool:
        return at <= self._elapsed() - WAIT_S


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
