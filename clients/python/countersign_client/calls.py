"""Calls of a gateway's own API (``/control/v1``) as whoever is signed in, and token exchange for who is not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from countersign_client.addresses import gateway_address
from countersign_client.discovery import discover
from countersign_client.errors import NotSignedIn, Refused
from countersign_client.session import access_token
from countersign_client.store import LoginStore
from countersign_client.wire import Json, exchange, plain, post_form

_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"  # noqa: S105 - a name, not a token
_UNAUTHORIZED = 401
_REFUSED = 400


def call(
    gateway: str,
    method: str,
    path: str,
    *,
    document: Mapping[str, Json] | None = None,
    query: Mapping[str, str] | None = None,
    store: LoginStore | None = None,
) -> Mapping[str, object]:
    """What the gateway answers; a token that it does not take is refreshed once.

    Raises:
        NotSignedIn: there is no login, or it has ended.
        Refused: with the gateway's own reason.
        Unreachable: it does not answer.
        UnsafeStore: the file of logins cannot be used.
    """
    gateway = gateway_address(gateway)
    url = f"{gateway}/control/v1{path}"
    token = access_token(gateway, store=store)
    status, answer = exchange(method, url, token=token, document=document, query=query)
    if status == _UNAUTHORIZED:
        token = access_token(gateway, store=store, refused=token)
        status, answer = exchange(method, url, token=token, document=document, query=query)
    if status == _UNAUTHORIZED:
        raise NotSignedIn(gateway, f"{gateway} does not accept your login.")
    if status >= _REFUSED:
        raise Refused(plain(answer.get("detail")) or plain(answer.get("title")) or f"{gateway} refused it ({status}).")
    return answer


def exchanged(gateway: str, subject_token: str, scopes: Iterable[str], *, is_jwt: bool = True) -> Mapping[str, object]:
    """A short-lived, narrower token for one that the gateway trusts (RFC 8693).

    Raises:
        InvalidAddress: it is no gateway's address.
        Refused: the gateway gives none for it.
        Unreachable: it does not answer.
    """
    answer = post_form(
        discover(gateway).token,
        {
            "grant_type": _EXCHANGE,
            "subject_token": subject_token,
            "subject_token_type": _TOKEN_TYPE + ("jwt" if is_jwt else "access_token"),
            "scope": " ".join(sorted(set(scopes))),
        },
    )
    token = answer.get("access_token")
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise Refused(f"{gateway_address(gateway)} gave no token that can be used.")
    return answer
