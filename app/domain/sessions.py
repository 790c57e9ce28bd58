"""Browser sessions: how long they last, the cookies that carry them, and where a person goes after signing in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from urllib.parse import urlsplit

from app.domain.errors import NotAuthenticated

SIGN_IN_LASTS = timedelta(minutes=10)
"""Between the button on our page and the return from the provider."""
BELIEVED_FOR = timedelta(seconds=30)
"""How long a process may believe a session without asking the database again."""
SECRET_LENGTH = 43
"""Characters of a secret of ours: 256 random bits as URL-safe base64."""
LONGEST_RETURN = 2048
HOME = "/"

_NEVER_RETURNED_TO = ("/auth/sign-in", "/auth/callback", "/auth/sign-out", "/auth/signed-out")
_SECRET_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


class EndReason(StrEnum):
    """Why a session ended before its time."""

    SIGNED_OUT = "signed-out"
    REPLACED = "replaced"
    """The same browser signed in again."""
    ENDED = "ended"
    """Its owner or an administrator ended it from elsewhere."""
    PROVIDER = "provider"
    """The provider said so (OpenID Connect Back-Channel Logout)."""


@dataclass(frozen=True, slots=True)
class Session:
    """One browser in which somebody has signed in. Holds no secret."""

    id: str
    principal_id: str
    principal_name: str
    provider: str
    created_at: datetime
    authenticated_at: datetime | None
    last_seen_at: datetime
    expires_at: datetime
    address: str
    user_agent: str
    acr: str | None = None


@dataclass(frozen=True, slots=True)
class StepUp:
    """What a sign-in must be (RFC 9470 section 4): no older than ``max_age_s`` seconds, and of one of the ``acr``."""

    max_age_s: int
    acr: tuple[str, ...] = ()

    @property
    def acr_values(self) -> str:
        return " ".join(self.acr)


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """How long sessions last. ``idle`` counts from the last request, ``absolute`` from the sign-in."""

    idle: timedelta
    absolute: timedelta

    @property
    def touch_after(self) -> timedelta:
        """How old the time of the last request may grow before it is written anew: a minute, less for short idling."""
        return min(timedelta(minutes=1), self.idle / 10)

    def idle_since(self, now: datetime) -> datetime:
        """A session whose last request was then or earlier is over."""
        return now - self.idle

    def believed_until(self, session: Session, now: datetime) -> datetime:
        """Until when nobody needs to ask again whether the session goes on."""
        believed = min(BELIEVED_FOR, self.touch_after)
        return min(session.expires_at, session.last_seen_at + self.idle, now + believed)


@dataclass(frozen=True, slots=True)
class Cookies:
    """The cookies of one public address.

    ``__Host-`` binds a cookie to this very host over TLS: no other host of the domain can set it (RFC 6265bis section
    4.1.3.2). A browser refuses that name without TLS, so that plain HTTP, which is for loopback alone, has another.
    """

    session: str
    sign_in: str
    is_secure: bool


def cookies_of(public_url: str) -> Cookies:
    """The names for ``public_url``."""
    if urlsplit(public_url).scheme == "https":
        return Cookies("__Host-countersign-session", "__Host-countersign-sign-in", is_secure=True)
    return Cookies("countersign-session", "countersign-sign-in", is_secure=False)


def one_cookie(headers: Iterable[tuple[bytes, bytes]], name: str) -> str | None:
    """The value of a cookie of ours; none if it was not sent.

    Raises:
        NotAuthenticated: it was sent twice. A browser sends one for each path and domain that set it: of two, one is
            somebody else's.
    """
    wanted = name.encode()
    values = [
        value.strip()
        for header, line in headers
        if header.lower() == b"cookie"
        for key, _, value in (pair.partition(b"=") for pair in line.split(b";"))
        if key.strip() == wanted
    ]
    if len(values) > 1:
        raise NotAuthenticated("Two session cookies were sent. Delete this site's cookies.", error="invalid_request")
    return values[0].decode("latin-1") if values else None


def has_form_of_secret(text: str | None) -> bool:
    """Whether a cookie can be one of ours: what cannot be is not looked for."""
    return text is not None and len(text) == SECRET_LENGTH and _SECRET_CHARACTERS.issuperset(text)


def safe_return(wanted: str | None) -> str:
    r"""Where a person goes after signing in: ``wanted`` if it is a path of ours, else home.

    Browsers take ``//host`` and ``/\host`` for another host, and leave out tabs and line ends wherever they stand.
    """
    if not wanted or len(wanted) > LONGEST_RETURN or not wanted.startswith("/") or wanted[1:2] in {"/", "\\"}:
        return HOME
    if not all("!" <= character <= "~" for character in wanted) or "\\" in wanted:
        return HOME
    path = urlsplit(wanted).path
    return HOME if any(path == page or path.startswith(f"{page}/") for page in _NEVER_RETURNED_TO) else wanted
