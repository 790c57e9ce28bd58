"""Who somebody is, as an identity provider says it, and by which credential they came.

What they may do is not said here but by grants (``app/domain/grants.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from app.domain.errors import InvalidInput, NotAuthenticated

Claim = str | tuple[str, ...]
"""A claim's value, as patterns see it: texts, and numbers and truth values as JSON writes them."""

OUR_TOKENS = "cs_"
"""How tokens of ours begin, whatever their kind: no issuer's do."""
LONGEST_ISSUER = 1000
LONGEST_SUBJECT = 255
"""Characters of ``sub``, all of them ASCII (OpenID Connect Core section 2)."""


class PrincipalKind(StrEnum):
    PERSON = "person"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a provider said of somebody.

    Identity is the pair (issuer, subject), never the name or an e-mail address: those are reassigned (OpenID Connect
    Core section 5.7).
    """

    issuer: str
    subject: str
    name: str
    kind: PrincipalKind = PrincipalKind.PERSON
    groups: frozenset[str] = frozenset()
    claims: Mapping[str, Claim] = field(default_factory=dict, hash=False)
    """What grants may ask for beside the groups, such as GitHub's ``repository``."""

    @property
    def id(self) -> str:
        """One string for the pair, as ``https://issuer.example|subject``."""
        return f"{self.issuer}|{self.subject}"


def check_subject(subject: object) -> str:
    """A subject that has one spelling: no look-alikes of another script, nothing invisible.

    Raises:
        NotAuthenticated: it is not 1 to 255 printable ASCII characters (OpenID Connect Core section 2).
    """
    if not isinstance(subject, str) or not 0 < len(subject) <= LONGEST_SUBJECT:
        raise NotAuthenticated("The token has no valid `sub` claim.", error="invalid_token")
    if not subject.isascii() or not subject.isprintable() or subject != subject.strip():
        raise NotAuthenticated(
            "The token's `sub` claim is not plain ASCII (OpenID Connect Core section 2).", error="invalid_token"
        )
    return subject


def unseen(principal_id: str) -> Identity:
    """What an id alone says of somebody who was not seen yet.

    Raises:
        InvalidInput: it is none.
    """
    issuer, _, subject = principal_id.partition("|")
    try:
        check_subject(subject)
    except NotAuthenticated:
        issuer = ""
    if not issuer.startswith(("https://", "http://")) or not issuer.isprintable() or len(issuer) > LONGEST_ISSUER:
        raise InvalidInput("principal", "expected `<issuer>|<subject>`, as `id` in `/control/v1/me`")
    return Identity(issuer, subject, subject)


class Scope(StrEnum):
    """What a credential may do at most, whatever its owner may do."""

    TRACK = "track"
    """Log and read experiments, runs, traces and artifacts."""
    REGISTRY = "registry"
    """Register and read models and versions."""
    PROMOTE = "promote"
    """Ask for promotions and rollbacks, withdraw and follow them, and post checks."""
    APPROVE = "approve"
    """Decide on promotions."""
    RESOLVE = "resolve"
    """Ask where the bytes of a model are."""
    ADMIN = "admin"
    """Administer: grants, identities, the audit log, metrics."""


class CredentialKind(StrEnum):
    SESSION = "session"
    """A browser's cookie."""
    PROVIDER = "provider"
    """A token of a trusted issuer."""
    PERSONAL = "personal"
    """A personal access token."""
    EXCHANGED = "exchanged"
    """A short-lived token of ours that was given for a token of a trusted issuer (RFC 8693)."""
    LOGIN = "login"
    """A token of a client of ours that a person signed in to: the command line, a web client."""


@dataclass(frozen=True, slots=True)
class Credential:
    """By what somebody proved who they are. Holds no secret."""

    kind: CredentialKind
    id: str = ""
    """Of a session or token of ours, else empty."""
    scopes: frozenset[Scope] | None = None
    """None: whatever its owner may do."""
    authenticated_at: datetime | None = None
    """When a person last proved to the provider who they are (``auth_time``), if it is known."""
    acr: str | None = None
    """The authentication context class that the provider says it was (``acr``), if it is known."""
    issued_at: datetime | None = None
    """When the provider said it (``iat``), of its own tokens, if it is known."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A credential that verified: of whom, what it is, and until when it can be believed without asking again."""

    identity: Identity
    credential: Credential
    expires_at: float
    """Seconds since the epoch."""


def digest_of(secret: str) -> bytes:
    """How a secret of ours is kept. Each has 256 random bits, so that no slow hash is needed."""
    return hashlib.sha256(secret.encode()).digest()
