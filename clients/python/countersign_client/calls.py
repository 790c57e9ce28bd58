"""Calls of a gateway's own API (``/control/v1``) as whoever is signed in, and token exchange for who is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from countersign_client.addresses import gateway_address
from countersign_client.credentials import PIPELINE_SCOPES, token_for
from countersign_client.discovery import discover
from countersign_client.errors import NotSignedIn, Refused, SignInTooOld
from countersign_client.store import LoginStore
from countersign_client.wire import LARGEST_ANSWER, Json, Query, Reply, plain, post_form, send

_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_TOKEN_TYPE = "urn:ietf:params:oauth:token-type:"  # noqa: S105 - a name, not a token
_UNAUTHORIZED = 401
_REFUSED = 400
_LONGEST_PAGE = 100
_LARGEST_PAGE = 64 * 1024 * 1024
"""Bytes: a hundred deployments of which each target says as much as it may."""


def call(
    gateway: str,
    method: str,
    path: str,
    *,
    document: Mapping[str, Json] | None = None,
    query: Query | None = None,
    store: LoginStore | None = None,
) -> Mapping[str, object]:
    """What the gateway answers, as ``ask``."""
    return ask(gateway, method, path, document=document, query=query, store=store).document


def ask(
    gateway: str,
    method: str,
    path: str,
    *,
    document: Mapping[str, Json] | None = None,
    query: Query | None = None,
    headers: Mapping[str, str] | None = None,
    store: LoginStore | None = None,
    scopes: Sequence[str] = PIPELINE_SCOPES,
    largest: int = LARGEST_ANSWER,
) -> Reply:
    """The gateway's answer; a token that it does not take is refreshed once.

    ``scopes`` are those of a token that is exchanged for this, ``largest`` the bytes of an answer that is read.

    Raises:
        NotSignedIn: there is no login and no token, or it has ended.
        SignInTooOld: what is asked for wants a fresh one.
        Refused: with the gateway's own reason.
        Unreachable: it does not answer.
        UnsafeStore: the file of logins cannot be used.
    """
    gateway = gateway_address(gateway)
    url = f"{gateway}/control/v1{path}"

    def answer(token: str) -> Reply:
        return send(method, url, token=token, document=document, query=query, headers=headers, largest=largest)

    token = token_for(gateway, store=store, scopes=scopes)
    reply = answer(token)
    if reply.status == _UNAUTHORIZED and not reply.document.get("sign_in"):
        reply = answer(token_for(gateway, store=store, refused=token, scopes=scopes))
    if reply.status == _UNAUTHORIZED and (page := plain(reply.document.get("sign_in"))):
        raise SignInTooOld(gateway, plain(reply.document.get("detail")), page)
    if reply.status == _UNAUTHORIZED:
        raise NotSignedIn(gateway, plain(reply.document.get("detail")) or f"{gateway} does not accept your login.")
    if reply.status >= _REFUSED:
        said = plain(reply.document.get("detail")) or plain(reply.document.get("title"))
        raise Refused(said or f"{gateway} refused it ({reply.status}).", status=reply.status, problem=reply.document)
    return reply


def pages(gateway: str, path: str, query: Query, *, limit: int) -> Iterator[Mapping[str, object]]:
    """What a list has, page by page, up to ``limit``. Raises as ``ask``."""
    asked, left = dict(query), limit
    while left > 0:
        length = {"limit": str(min(left, _LONGEST_PAGE))}
        page = ask(gateway, "GET", path, query={**asked, **length}, largest=_LARGEST_PAGE).document
        for each in items(page.get("items")):
            yield each
            left -= 1
        cursor = page.get("next_cursor")
        if not isinstance(cursor, str):
            return
        asked["cursor"] = cursor


def items(value: object) -> Iterator[Mapping[str, object]]:
    """The objects of a list."""
    yield from (each for each in value if isinstance(each, Mapping)) if isinstance(value, list) else ()


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
