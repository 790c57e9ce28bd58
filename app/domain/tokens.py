"""Tokens of ours: how they look, what may be in one, and how long each is good for.

A token is a prefix that tells its kind, 256 random bits in base 62, and a checksum: a scanner for leaked secrets knows
it for sure, and a mistyped one is refused without a question to the database.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from app.domain.errors import Forbidden, InsufficientScope, InvalidInput, NotAuthenticated, OAuthRefused
from app.domain.identity import Credential, CredentialKind, PrincipalKind, Scope
from app.domain.roles import UNATTENDED

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LENGTH = 43
"""62 ** 43 is more than 2 ** 256, 62 ** 42 is not."""
_CHECKSUM_LENGTH = 6
"""62 ** 6 is more than 2 ** 32."""


class Prefix(StrEnum):
    """What a token begins with, by what it is for."""

    PERSONAL = "cs_pat_"
    LOGIN = "cs_log_"
    EXCHANGED = "cs_exc_"
    REFRESH = "cs_ref_"
    DEVICE = "cs_dev_"
    """A device code (RFC 8628 section 3.2)."""
    CODE = "cs_cod_"
    """An authorization code."""


BEARER = frozenset({Prefix.PERSONAL, Prefix.LOGIN, Prefix.EXCHANGED})
"""Those that prove who is calling. The rest are for the token endpoint alone."""

ATTENDED = frozenset(Scope) - UNATTENDED
"""The scopes that somebody must sit before: what CI holds can never approve, whatever its owner may do."""

SCOPE_MEANINGS: Mapping[Scope, str] = {
    Scope.TRACK: "log and read experiments, runs, traces and artifacts",
    Scope.REGISTRY: "register and read models and versions",
    Scope.PROMOTE: "ask for promotions and rollbacks, and follow them",
    Scope.APPROVE: "approve and reject promotions in your name",
    Scope.RESOLVE: "ask where the bytes of a model are, and read them",
    Scope.ADMIN: "administer: grants, identities, the audit log",
}
"""What a person is told who decides whether a client may have it."""

LONGEST_NAME = 64
ACCESS_LASTS = timedelta(minutes=15)
"""The token of a login."""
EXCHANGED_LASTS = timedelta(minutes=15)
"""At most; and no longer than the token it was given for."""
ATTENDED_DAYS = 1
"""A personal token that may approve or administer is for today, never for a pipeline."""
ATTENDED_LASTS = timedelta(days=ATTENDED_DAYS)
"""The same for a login: a client goes on for days, but approves only while the person's word is fresh."""
DEVICE_LASTS = timedelta(minutes=10)
CODE_LASTS = timedelta(minutes=1)
POLL_S = 5
"""Seconds between two questions of a device, and what ``slow_down`` adds (RFC 8628 section 3.5)."""
USED_AGAIN_AFTER = timedelta(minutes=1)
"""How exact the time of the last use is."""

USER_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels, so that no word appears (RFC 8628 section 6.1): 20 ** 8 codes, 34 bits."""
_USER_CODE_LENGTH = 8


def new_token(prefix: Prefix) -> str:
    """A secret of 256 random bits. It is shown once and kept as ``digest_of`` it."""
    body = prefix + _base62(secrets.randbits(256), _RANDOM_LENGTH)
    return body + _checksum(body)


def is_ours(token: str) -> bool:
    """Whether a token says that it is one of ours, of whatever kind, well-formed or not."""
    return token.startswith("cs_")


def prefix_of(token: str) -> Prefix | None:
    """What a token of ours is for; none if it is not well-formed or was mistyped."""
    prefix = next((prefix for prefix in Prefix if token.startswith(prefix)), None)
    if prefix is None or len(token) != len(prefix) + _RANDOM_LENGTH + _CHECKSUM_LENGTH:
        return None
    body, checksum = token[:-_CHECKSUM_LENGTH], token[-_CHECKSUM_LENGTH:]
    # The checksum is no secret: no constant time is needed.
    return prefix if token.isascii() and token[len(prefix) :].isalnum() and checksum == _checksum(body) else None


def check_bearer(token: str) -> Prefix:
    """What kind of bearer token of ours this is.

    Raises:
        NotAuthenticated: none; the message says what it is instead, as far as its own words tell.
    """
    prefix = prefix_of(token)
    if prefix is None:
        raise NotAuthenticated("The token was mistyped or cut off: its checksum does not match.", error="invalid_token")
    if prefix not in BEARER:
        raise NotAuthenticated("This is not an access token; it is for the token endpoint.", error="invalid_token")
    return prefix


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)


@dataclass(frozen=True, slots=True)
class Token:
    """A token of ours, without its secret. ``parent_id`` is the personal token that an exchange narrowed."""

    id: str
    kind: CredentialKind
    principal_id: str
    name: str
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime
    login_id: str | None = None
    parent_id: str | None = None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A personal token that was asked for, as it is allowed."""

    name: str
    scopes: frozenset[Scope]
    lasts: timedelta


def personal_token(
    *, name: str, scopes: Iterable[Scope], days: int, by: Credential, kind: PrincipalKind, longest_days: int
) -> Wanted:
    """A personal token, if one such may be had with this credential.

    Args:
        name: what its owner calls it.
        scopes: what it may do at most.
        days: how long it is good for.
        by: the credential that asks.
        kind: of the principal who asks.
        longest_days: what the operator allows.

    Raises:
        InvalidInput: names the field.
        Forbidden: a service or an unattended credential asks.
        InsufficientScope: the credential that asks may do less.
    """
    check_interactive(by, kind)
    name, wanted = name.strip(), frozenset(scopes)
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise InvalidInput("name", f"expected 1 to {LONGEST_NAME} printable characters")
    if not wanted:
        raise InvalidInput("scopes", f"expected at least one of {', '.join(Scope)}")
    if attended := wanted & ATTENDED:
        if beside := wanted & UNATTENDED:
            raise InvalidInput(
                "scopes",
                f"{_listed(attended)} cannot be in one token with {_listed(beside)}: what a pipeline holds can never "
                "approve or administer; make two tokens",
            )
        longest_days = min(longest_days, ATTENDED_DAYS)
    if not 1 <= days <= longest_days:
        raise InvalidInput("expires_in_days", f"expected 1 to {longest_days} with {_listed(wanted)}")
    if by.scopes is not None and (beyond := wanted - by.scopes):
        raise InsufficientScope(
            f"A token cannot be given more than the one that asks for it has: {_listed(beyond)}.",
            scope=" ".join(sorted(beyond)),
        )
    return Wanted(name, wanted, timedelta(days=days))


def check_interactive(by: Credential, kind: PrincipalKind) -> None:
    """Return if somebody sits before what asks: tokens are looked after by people, not by tokens.

    A token of the provider counts if it is a person's and not limited.

    Raises:
        Forbidden: nobody does.
    """
    if kind is not PrincipalKind.PERSON:
        raise Forbidden(
            "Personal access tokens are for people. A service exchanges its issuer's token (/auth/token, RFC 8693)."
        )
    is_interactive = by.kind in {CredentialKind.SESSION, CredentialKind.LOGIN} or (
        by.kind is CredentialKind.PROVIDER and by.scopes is None
    )
    if not is_interactive:
        raise Forbidden("A token cannot look after tokens: sign in with a browser or with `countersign login`.")


def refreshed_scopes(held: frozenset[Scope], *, age: timedelta) -> frozenset[Scope]:
    """What a login still has. A login that lies on a machine for days is no person who sits before it.

    Raises:
        OAuthRefused: nothing is left.
    """
    left = held if age < ATTENDED_LASTS else held & UNATTENDED
    if not left:
        raise OAuthRefused("invalid_grant", "To approve or administer, sign in again: it is more than a day ago.")
    return left


def exchanged_scopes(requested: Iterable[Scope], held: frozenset[Scope] | None) -> frozenset[Scope]:
    """What an exchanged token gets: what was asked for, that the shown token has, and that is not attended.

    Raises:
        OAuthRefused: nothing is left.
    """
    wanted = frozenset(requested)
    given = wanted & UNATTENDED
    if held is not None:
        given &= held
    if not given:
        attended = wanted & ATTENDED
        why = f"{_listed(attended)} is never given by an exchange" if attended else "the token shown has none of them"
        raise OAuthRefused("invalid_scope", f"Nothing is left of the scopes that were asked for: {why}.")
    return given


def scopes_of(text: str | None) -> frozenset[Scope]:
    """The scopes in a ``scope`` parameter (RFC 6749 section 3.3); those that we do not know are left out.

    Raises:
        OAuthRefused: none is named that we know.
    """
    known = {scope.value: scope for scope in Scope}
    found = frozenset(known[word] for word in (text or "").split(" ") if word in known)
    if not found:
        raise OAuthRefused("invalid_scope", f"Name what the token is for: `scope` of {' '.join(Scope)}.")
    return found


def scope_text(scopes: Iterable[Scope]) -> str:
    return " ".join(sorted(scopes))


def new_user_code() -> str:
    """Eight letters that a person reads and compares, without the hyphen."""
    return "".join(secrets.choice(USER_CODE_LETTERS) for _ in range(_USER_CODE_LENGTH))


def shown_user_code(code: str) -> str:
    return f"{code[:4]}-{code[4:]}"


def read_user_code(typed: str) -> str | None:
    """The code that a person typed, however they wrote it; none if it cannot be one."""
    code = "".join(letter for letter in typed[:64].upper() if letter not in " -")
    return code if len(code) == _USER_CODE_LENGTH and set(code) <= set(USER_CODE_LETTERS) else None


def _listed(scopes: Iterable[Scope]) -> str:
    return ", ".join(sorted(scopes))
