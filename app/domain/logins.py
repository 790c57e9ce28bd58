"""Clients that people signed in to, and how that comes about: by a device's code, or by one through the browser."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from app.domain.identity import Scope


class EndReason(StrEnum):
    """Why a login ended before its time."""

    SIGNED_OUT = "signed-out"
    """Its client gave the token back (RFC 7009)."""
    ENDED = "ended"
    """Its owner or an administrator ended it from elsewhere."""
    REFRESH_REUSED = "refresh-reused"
    CODE_REUSED = "code-reused"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Login:
    """A client that somebody signed in to, without its secrets."""

    id: str
    principal_id: str
    client: str
    scopes: frozenset[Scope]
    authenticated_at: datetime | None
    created_at: datetime
    refreshed_at: datetime
    expires_at: datetime
    address: str
    user_agent: str
    ended_at: datetime | None = None
    end_reason: str | None = None
    principal_name: str = ""
    disabled_at: datetime | None = None
    acr: str | None = None

    def goes_on(self, now: datetime) -> bool:
        return self.ended_at is None and now < self.expires_at


@dataclass(frozen=True, slots=True)
class DeviceAuthorization:
    """A device that asks to be signed in to. ``principal_id`` is of who decided."""

    user_code: str
    client: str
    scopes: frozenset[Scope]
    state: str
    created_at: datetime
    expires_at: datetime
    interval_s: int
    address: str
    polled_at: datetime | None = None
    principal_id: str | None = None
    authenticated_at: datetime | None = None
    acr: str | None = None


@dataclass(frozen=True, slots=True)
class AuthorizationCode:
    """A code that was given to a client. ``login_id`` is of the login that it began."""

    client: str
    redirect_uri: str
    challenge: str
    scopes: frozenset[Scope]
    principal_id: str
    authenticated_at: datetime | None
    created_at: datetime
    expires_at: datetime
    login_id: str | None = None
    acr: str | None = None
