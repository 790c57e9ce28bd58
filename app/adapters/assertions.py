"""How the gateway says to MLflow that it is the gateway, and for whom it asks: signed, and short-lived.

The other side is ``deploy/mlflow/countersign_mlflow/assertions.py``, an MLflow that takes no request without. ADR 0012
says why.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from joserfc import jwt
from joserfc.jwk import OctKey

from app.domain.access import Principal
from app.domain.identity import Identity, PrincipalKind
from app.ports import Clock, Judged

HEADER = "X-Countersign-Assertion"
USER, GROUPS = "X-Remote-User", "X-Remote-Groups"
ISSUER, AUDIENCE, TYPE, ALGORITHM = "countersign", "mlflow", "countersign-assertion+jwt", "HS256"
LIFETIME_S = 60
RENEWED_AFTER_S = LIFETIME_S / 2
REMEMBERED = 4096
"""Principals whose assertion is kept for their next request."""

OURSELVES = Principal(Identity(ISSUER, ISSUER, "countersign", PrincipalKind.SERVICE))
"""Who asks when no caller does: the gateway and the worker for themselves."""

_SAFE = string.punctuation.replace("%", "").replace(",", "")

Headers = tuple[tuple[str, str], ...]
_Who = tuple[str, str, str, frozenset[str]] | None


class GatewayAssertion:
    """See ``app.ports.Assertion``.

    Args:
        secret: what is shared with MLflow's side, at least 32 bytes. Without one nothing is signed.
        remote_user: whether to say the caller's name and groups in ``X-Remote-User`` and ``X-Remote-Groups`` as well.
    """

    def __init__(self, secret: str | None, clock: Clock, *, remote_user: bool = False) -> None:
        self._key = OctKey.import_key(secret) if secret else None
        self._clock = clock
        self._remote_user = remote_user
        self._kept: dict[_Who, tuple[float, Headers]] = {}

    def headers(self, principal: Principal | None, judged: Judged | None = None) -> Headers:
        """The headers of one request. Without ``judged`` they are made twice a minute for each principal."""
        now = self._clock.now().timestamp()
        if judged is not None:
            return self._made(principal, now, judged)
        # Not the principal itself: its hash is computed in Python, over its roles too.
        who: _Who = None
        if principal is not None:
            who = (principal.issuer, principal.subject, principal.name, principal.groups)
        kept = self._kept.get(who)
        # A clock that was set back must not make an assertion last until the time it came from.
        if kept is not None and 0 <= now - kept[0] < RENEWED_AFTER_S:
            return kept[1]
        if len(self._kept) >= REMEMBERED:
            self._kept.clear()
        made = self._made(principal, now, None)
        self._kept[who] = (now, made)
        return made

    def _made(self, principal: Principal | None, now: float, judged: Judged | None) -> Headers:
        made: list[tuple[str, str]] = []
        if self._key is not None:
            claims = _claims(principal, int(now))
            if judged is not None:
                claims["request"] = {
                    "method": judged.method,
                    "path": judged.path,
                    "message": judged.message,
                    "digest": digest_of(judged.fields),
                }
            made.append((HEADER, jwt.encode({"alg": ALGORITHM, "typ": TYPE}, claims, self._key)))
        if self._remote_user and principal is not None:
            made.append((USER, _as_header(principal.name)))
            if principal.groups:
                made.append((GROUPS, ",".join(_as_header(group) for group in sorted(principal.groups))))
        return tuple(made)


def _claims(principal: Principal | None, now: int) -> dict[str, Any]:
    who: dict[str, Any] = {"sub": "anonymous"}
    if principal is not None and principal.issuer == ISSUER:  # ourselves: the issuer of anybody else is a URL
        who = {"sub": ISSUER}
    elif principal is not None:
        groups = [_text(group) for group in sorted(principal.groups)]
        who = {"sub": _text(principal.id), "name": _text(principal.name), "groups": groups}
    return {"iss": ISSUER, "aud": AUDIENCE, **who, "iat": now, "exp": now + LIFETIME_S}


def digest_of(fields: Mapping[str, object]) -> str:
    """The SHA-256 of a message's fields as JSON: keys sorted, no white space, ASCII.

    Empty lists are left out: protobuf, which the other side has read the message into, does not tell them from none.
    """
    said = {name: value for name, value in fields.items() if value != []}
    text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def _text(value: str) -> str:
    """Without lone surrogates, which a token of the provider may hold, and UTF-8 cannot."""
    return value.encode(errors="replace").decode()


def _as_header(value: str) -> str:
    """Printable ASCII without spaces and commas; everything else, and ``%``, percent-encoded as UTF-8."""
    return quote(value, safe=_SAFE, errors="replace")
