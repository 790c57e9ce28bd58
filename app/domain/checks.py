"""Verdicts that CI posts on a version: what one says, of which bytes, and for how long it counts.

Whose verdict counts for a check, and for how long at most, is the policy's say (``app/domain/policies/policy.py``);
which one counts is read in ``app/services/cases.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from app.domain.errors import InvalidInput
from app.domain.grants import LONGEST_NAME

LONGEST_MESSAGE = 2000
LONGEST_LINK = 2000
LONGEST_LIFE = timedelta(days=366)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Verdict(StrEnum):
    """What a check says of a version."""

    PASS = "pass"  # noqa: S105  # a word, not a password
    FAIL = "fail"
    RUNNING = "running"
    """It has been begun, and says more later: until then it is waited for."""


@dataclass(frozen=True, slots=True)
class Posting:
    """One verdict as somebody posts it. ``expires_in_s`` or ``expires_at`` ends it; neither: the policy alone does."""

    name: str
    outcome: Verdict
    message: str = ""
    link: str | None = None
    digest: str | None = None
    expires_in_s: int | None = None
    expires_at: datetime | None = None

    def check(self) -> None:
        """Return if everything is well formed.

        Raises:
            InvalidInput: naming the field.
        """
        check_name(self.name)
        if len(self.message) > LONGEST_MESSAGE:
            raise InvalidInput("message", f"expected at most {LONGEST_MESSAGE} characters")
        if self.link is not None:
            check_link(self.link)
        if self.digest is not None and not _DIGEST.fullmatch(self.digest):
            raise InvalidInput("digest", "expected `sha256:` and 64 hexadecimal digits, as `countersign digest` prints")

    def ends(self, now: datetime) -> datetime | None:
        """When it ends; none if it does not by itself.

        Raises:
            InvalidInput: it would have ended already, or last longer than a year, or both ends are given.
        """
        if self.expires_in_s is not None and self.expires_at is not None:
            raise InvalidInput("expires_at", "expected `expires_in` or `expires_at`, not both")
        if self.expires_in_s is not None:
            if not 0 < self.expires_in_s <= LONGEST_LIFE.total_seconds():
                raise InvalidInput("expires_in", f"expected 1 to {LONGEST_LIFE.total_seconds():.0f} seconds")
            return now + timedelta(seconds=self.expires_in_s)
        if self.expires_at is not None and not now < self.expires_at <= now + LONGEST_LIFE:
            raise InvalidInput("expires_at", f"expected a time to come, within {LONGEST_LIFE.days} days")
        return self.expires_at


@dataclass(frozen=True, slots=True)
class PostedCheck:
    """A verdict that was posted. ``outcome`` is ``pass``, ``fail`` or ``running``.

    ``digest`` is of the artifacts it is about. ``groups`` and ``roles`` (on the model) are those that the poster had
    then.
    """

    id: str
    workspace: str
    model: str
    version: str
    model_created_at: int
    version_created_at: int
    name: str
    outcome: str
    message: str
    posted_by: str
    posted_by_name: str
    posted_at: datetime
    digest: str | None = None
    promotion_id: str | None = None
    link: str | None = None
    groups: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    is_service: bool = False
    expires_at: datetime | None = None
    sequence: int = 0
    """Its place in the order, given by the database."""


def check_name(name: str) -> str:
    """The name of a check, if a policy could ask for one of it and an address can hold it.

    Raises:
        InvalidInput: otherwise.
    """
    is_one = name.isprintable() and name == name.strip() and 0 < len(name) <= LONGEST_NAME
    if not is_one or "/" in name or name in {".", ".."}:
        raise InvalidInput("name", f"expected at most {LONGEST_NAME} printable characters without `/`")
    return name


def check_link(link: str) -> str:
    """The address of a page that says more, if people may be sent there.

    Raises:
        InvalidInput: it is not https, or holds a user name or password, or anything but printable ASCII.
    """
    refusal = InvalidInput(
        "link", f"expected an address https://… of at most {LONGEST_LINK} characters, without user name and password"
    )
    if len(link) > LONGEST_LINK or not link.isascii() or not link.isprintable() or set(link) & set(' "<>\\^`{|}'):
        raise refusal
    try:
        parts = urlsplit(link)
        _ = parts.port
    except ValueError:
        raise refusal from None
    if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc:
        raise refusal
    return link
