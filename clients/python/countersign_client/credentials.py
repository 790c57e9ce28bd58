"""Whose token a call is made with: one from the environment, a pipeline's own identity, or the login of this machine.

In this order:

1. ``COUNTERSIGN_TOKEN``, a token of ours or of an issuer that the gateway trusts. It goes to the gateway that is named,
   whichever that is: who sets it names both.
2. ``MLFLOW_TRACKING_TOKEN``, to the gateway of ``MLFLOW_TRACKING_URI`` and to no other.
3. ``COUNTERSIGN_ID_TOKEN``, the identity token that a pipeline was given (GitLab's ``id_tokens``), exchanged for short
   tokens of the gateway (RFC 8693) for as long as it lasts; or the file that ``COUNTERSIGN_ID_TOKEN_FILE`` names, read
   each time (what Kubernetes projects into a pod, and renews there).
4. The login that ``countersign login`` keeps.
5. In GitHub Actions with ``permissions: {id-token: write}``: the same exchange, with an identity token that is fetched
   anew each time, so that a pipeline may wait for longer than any token lasts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from countersign_client.addresses import origin_of
from countersign_client.errors import NotSignedIn, Refused, TokenRefused, Unreachable
from countersign_client.session import access_token
from countersign_client.store import LoginStore
from countersign_client.wire import OAuthRefused, send

PIPELINE_SCOPES = ("promote",)
"""What a pipeline's token may do: ask, follow, post checks. Never approve; the gateway would not give it."""
AUDIENCE = "countersign"
"""``COUNTERSIGN_AUDIENCE``, of the identity tokens that we ask GitHub for."""
_ID_TOKEN, _ID_TOKEN_FILE = "COUNTERSIGN_ID_TOKEN", "COUNTERSIGN_ID_TOKEN_FILE"
_GITHUB_URL, _GITHUB_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
_RENEWED_AHEAD_S = 120
_LASTS_S = 60


def token_for(
    gateway: str,
    *,
    store: LoginStore | None = None,
    refused: str | None = None,
    scopes: Sequence[str] = PIPELINE_SCOPES,
) -> str:
    """A token that is good now.

    Args:
        gateway: its address, as ``addresses.gateway_address`` spells it.
        store: where logins are kept. If one is named, its login is used, whatever the environment says.
        refused: a token that the gateway did not take.
        scopes: of a token that is exchanged for the pipeline's identity.

    Raises:
        NotSignedIn: there is none, or it has ended.
        Refused: the gateway gives none for the pipeline's identity.
        Unreachable: it cannot be had now.
        UnsafeStore: the file of logins cannot be used.
    """
    if store is None:
        if (variable := _variable_for(gateway)) is not None:
            token = os.environ[variable].strip()
            if token == refused:
                raise TokenRefused(gateway, variable)
            return _header_text(token, variable)
        if _has_identity_token():
            return _exchanged(gateway, refused, scopes)
        if LoginStore().get(gateway) is None:
            if _is_on_github():
                return _exchanged(gateway, refused, scopes)
            raise NotSignedIn(
                gateway,
                f"You are not signed in at {gateway}, and no token is in COUNTERSIGN_TOKEN or {_ID_TOKEN_FILE}.",
            )
    return access_token(gateway, store=store, refused=refused)


class Whence(Enum):
    """What ``token_for`` has a token from."""

    GIVEN = "given"
    """A token of the environment, as it is: nobody here renews it."""
    IDENTITY = "identity"
    LOGIN = "login"


def whence(gateway: str) -> Whence | None:
    """What ``token_for`` would have a token from; none if it has nothing. Raises ``UnsafeStore``."""
    if _variable_for(gateway) is not None:
        return Whence.GIVEN
    if _has_identity_token():
        return Whence.IDENTITY
    if LoginStore().get(gateway) is not None:
        return Whence.LOGIN
    return Whence.IDENTITY if _is_on_github() else None


def _variable_for(gateway: str) -> str | None:
    """The one whose token may go there: MLflow's is for MLflow's server."""
    is_mlflows = origin_of(os.environ.get("MLFLOW_TRACKING_URI", "")) == gateway
    names = ("COUNTERSIGN_TOKEN", *(["MLFLOW_TRACKING_TOKEN"] if is_mlflows else []))
    return next((name for name in names if os.environ.get(name, "").strip()), None)


def _has_identity_token() -> bool:
    return any(os.environ.get(variable, "").strip() for variable in (_ID_TOKEN, _ID_TOKEN_FILE))


def _is_on_github() -> bool:
    return bool(os.environ.get(_GITHUB_URL) and os.environ.get(_GITHUB_TOKEN))


def _header_text(token: str, variable: str) -> str:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Refused(f"What is in {variable} is no token.")
    return token


@dataclass(frozen=True, slots=True)
class _Short:
    """A token of the gateway that was given for the pipeline's identity. Times are by ``time.monotonic``."""

    token: str
    until: float
    """When the next one is asked for."""
    ends: float


_short: dict[tuple[str, tuple[str, ...]], _Short] = {}
"""By gateway and scopes, for this process alone: nothing of a pipeline is written down."""


def _exchanged(gateway: str, refused: str | None, scopes: Sequence[str]) -> str:
    key = gateway, tuple(scopes)
    kept = _short.get(key)
    if kept and kept.token != refused and time.monotonic() < kept.until:
        return kept.token
    from countersign_client.calls import exchanged  # noqa: PLC0415  # which asks here for whose token to use

    began = time.monotonic()
    try:
        answer = exchanged(gateway, _identity(gateway), scopes)
    except OAuthRefused as refusal:
        if refusal.code == "invalid_grant":
            raise NotSignedIn(gateway, f"{gateway} does not accept the pipeline's identity: {refusal}") from None
        raise
    except Unreachable:
        if kept and kept.token != refused and began < kept.ends:
            return kept.token
        raise
    token, lasts = str(answer["access_token"]), answer.get("expires_in")
    lasts_s = lasts if isinstance(lasts, int) and not isinstance(lasts, bool) else _LASTS_S
    _short[key] = _Short(token, began + max(lasts_s - _RENEWED_AHEAD_S, lasts_s / 2), began + lasts_s)
    return token


def _identity(gateway: str) -> str:
    """The pipeline's identity token."""
    if given := os.environ.get(_ID_TOKEN, "").strip():
        return _header_text(given, _ID_TOKEN)
    if file := os.environ.get(_ID_TOKEN_FILE, "").strip():
        try:
            return _header_text(Path(file).read_text().strip(), _ID_TOKEN_FILE)
        except (OSError, ValueError):
            raise NotSignedIn(gateway, f"The file that {_ID_TOKEN_FILE} names cannot be read.") from None
    url = os.environ[_GITHUB_URL]
    if origin_of(url) is None:
        raise Refused(f"{_GITHUB_URL} is no address that a token may be sent to.")
    audience = os.environ.get("COUNTERSIGN_AUDIENCE") or AUDIENCE
    reply = send("GET", url, token=os.environ[_GITHUB_TOKEN], query={"audience": audience})
    value = reply.document.get("value")
    if not isinstance(value, str) or not value:
        raise NotSignedIn(gateway, f"GitHub gave no identity token ({reply.status}).")
    return _header_text(value, "GitHub's answer")
