"""How a receiver has answered of late, and how much of it is tried: a circuit breaker for each receiver.

One that fails again and again is asked by one message at a time, after waits that grow, so that ten thousand models'
messages do not each find out for themselves. The first success opens the way for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

TRIPS_AT = 10
"""Failures one after the other after which a receiver counts as away. (One that fails three times of ten, by chance,
has as many in a row once in 170,000 attempts.)"""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""Between two attempts at a receiver that is away: it is back at most so much later than it could be."""
LONGEST_ASKED_S = 3600.0
"""What a receiver may ask for (``Retry-After``) for all its messages."""
KNOWN_AFTER = timedelta(seconds=30)
DISABLED_AFTER = timedelta(days=5)
"""Without one success in so long, an endpoint is disabled (as Svix does); it must have failed on each of these days."""


@dataclass(frozen=True, slots=True)
class Health:
    """``failures`` are those since the last success, the first of them at ``failing_since``; nothing is sent before
    ``pause_until``.
    """

    failures: int = 0
    failing_since: datetime | None = None
    pause_until: datetime | None = None

    @property
    def is_away(self) -> bool:
        return self.failures >= TRIPS_AT

    def is_known(self, at: datetime) -> bool:
        """Whether it has failed for long enough that others should know."""
        return self.failing_since is not None and (self.is_away or at - self.failing_since >= KNOWN_AFTER)

    def lanes(self, most: int, at: datetime) -> int:
        """From how many lanes may be sent at a time."""
        if self.pause_until is not None and at < self.pause_until:
            return 0
        return min(most, 1) if self.is_away else most


WELL = Health()


def after_failure(health: Health, *, at: datetime, chance: float, retry_after_s: float | None = None) -> Health:
    """The health after one more failure.

    Args:
        health: before.
        at: when it failed.
        chance: a random number from 0 to 1.
        retry_after_s: what the receiver asked for.
    """
    since = health.failing_since or at
    if health.is_away and health.pause_until is not None and at < health.pause_until:
        # It was on its way already when the others failed.
        return health
    failures, pause = health.failures + 1, 0.0
    if failures >= TRIPS_AT:
        pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - TRIPS_AT, 16)) * (0.5 + chance / 2)
    if retry_after_s is not None:
        pause = max(pause, min(LONGEST_ASKED_S, retry_after_s))
    until = at + timedelta(seconds=pause) if pause else health.pause_until
    return replace(health, failures=failures, failing_since=since, pause_until=until)


def is_to_be_disabled(failing_since: datetime | None, at: datetime) -> bool:
    """Whether it has failed for so long that nobody can be there."""
    return failing_since is not None and at - failing_since >= DISABLED_AFTER
