"""Endpoints: registered receivers of events, and which events each of them hears."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase

from app.domain.events import Event
from app.domain.webhook_keys import DERIVED, Derived, KeyKind

ANY_PRIVATE = "private"
"""Instead of a network: every private one (RFC 1918, RFC 4193, loopback), never that of link-local addresses."""
DISABLED_BY_DOCUMENT = "its document says so"
"""The reason of the state that ``disabled: true`` gives."""


class Channel(StrEnum):
    """How an endpoint is told."""

    WEBHOOK = "webhook"  # a program: a signed CloudEvent over HTTP
    SLACK = "slack"
    TEAMS = "teams"
    EMAIL = "email"


class ReceiverState(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"  # nothing is sent, and what happens meanwhile is not kept for it


class Signing(StrEnum):
    """How messages are signed with a key that is derived, and of which nothing is kept but its name.

    The words are those of ``app.domain.webhook_keys.KeyKind``.
    """

    ED25519 = "ed25519"
    HMAC = "hmac"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One receiver of events.

    Secrets are named, not held: ``file:/path``, ``env:NAME``, or ``derived:<kind>/<id>/<number>`` for those that are
    derived from ``COUNTERSIGN_WEBHOOK_KEY``. Each is a ``whsec_`` secret (HMAC) or a ``whsk_`` key (ed25519), at most
    two at a time, the newest first: messages are signed with both. For people (every channel but the webhook) ``url``
    is none, and the first secret names where it goes, as the URL of a Slack webhook.

    ``events``, ``models``, ``aliases`` and ``workspaces`` are shell patterns; one of each must match.

    ``disabled`` is what the document asks for; how the endpoint is doing is ``StoredEndpoint.state``.
    ``previous_until`` is when the second secret signs no more; none: as long as it is named.
    """

    name: str
    url: str | None
    secrets: tuple[str, ...]
    channel: Channel = Channel.WEBHOOK
    events: tuple[str, ...] = ("*",)
    models: tuple[str, ...] = ("*",)
    aliases: tuple[str, ...] = ("*",)
    workspaces: tuple[str, ...] = ("*",)
    allowed_networks: tuple[str, ...] = ()
    timeout_s: int = 10
    description: str = ""
    disabled: bool = False
    previous_until: datetime | None = None

    def secrets_at(self, at: datetime) -> tuple[str, ...]:
        """The references of the secrets that sign at a time, the newest first."""
        return self.secrets if self.previous_until is None or at < self.previous_until else self.secrets[:1]

    @property
    def signing(self) -> Signing | None:
        """How it signs, if its keys are derived."""
        newest = self.secrets[0] if self.secrets else ""
        return Signing(newest.removeprefix(DERIVED).partition("/")[0]) if newest.startswith(DERIVED) else None

    def hears(self, event: Event) -> bool:
        """Whether it wants an event. What is of no alias (a version that was registered) matches every ``aliases``."""
        key = event.key
        return (
            _matches(event.type.value, self.events)
            and _matches(key.workspace, self.workspaces)
            and (not key.model or _matches(key.model, self.models))
            and (not key.alias or _matches(key.alias, self.aliases))
        )


def with_keys(wanted: Endpoint, present: Endpoint | None, *, key_id: str) -> Endpoint:
    """``wanted`` with the keys that it has already, or its first one, ``key_id``; unless it names its own secrets."""
    if wanted.signing is None:
        return wanted
    if present is not None and present.signing is wanted.signing:
        return replace(wanted, secrets=present.secrets, previous_until=present.previous_until)
    return replace(wanted, secrets=(str(Derived(KeyKind(wanted.signing.value), key_id, 1)),))


def rotated(endpoint: Endpoint, *, key_id: str, previous_until: datetime) -> Endpoint:
    """With a new key, which signs alone from ``previous_until`` on. Its keys must be derived."""
    newest = Derived.parse(endpoint.secrets[0])
    key = Derived(newest.kind, key_id, newest.number + 1)
    return replace(endpoint, secrets=(str(key), endpoint.secrets[0]), previous_until=previous_until)


@dataclass(frozen=True, slots=True)
class StoredEndpoint:
    """An endpoint and how it is doing. It hears the events after the sequence ``hears_after``."""

    endpoint: Endpoint
    revision: int
    hears_after: int
    state: ReceiverState
    state_reason: str | None
    failing_since: datetime | None
    created_at: datetime
    updated_at: datetime
    updated_by: str = field(default="")

    @property
    def etag(self) -> str:
        """Another one after every change of what was asked for, also when it was removed and made again."""
        return f'"{self.revision}-{int(self.created_at.timestamp() * 1_000_000)}"'


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
