"""A login that stays good: the token of the moment, refreshed by one process at a time; and its end."""

from __future__ import annotations

import time
from collections.abc import Iterable

from countersign_client.addresses import gateway_address
from countersign_client.discovery import Endpoints
from countersign_client.errors import NotSignedIn, Refused, Unreachable
from countersign_client.store import Login, LoginStore
from countersign_client.wire import OAuthRefused, plain, post_form

CLIENT_ID = "countersign-cli"
"""Built into every gateway; a public client (RFC 6749 section 2.1)."""
_LASTS_S = 300
"""An access token, if the gateway does not say (RFC 6749 section 5.1 recommends that it does)."""


def access_token(gateway: str, *, store: LoginStore | None = None, refused: str | None = None) -> str:
    """A token that is good now; refreshed if need be.

    The gateway ends a login whose refresh token is shown twice, as it would be if it were stolen. So the lock is held
    from reading the token to having written the next. If this process dies between the gateway's answer and that, the
    login is lost, and the next call says to sign in again.

    Args:
        gateway: its address.
        store: where logins are kept.
        refused: an access token that the gateway did not take, whatever this machine's clock says.

    Raises:
        NotSignedIn: there is no login, or it has ended.
        Unreachable: the token is old and the gateway does not answer.
        UnsafeStore: the file of logins cannot be used.
    """
    gateway, store = gateway_address(gateway), store or LoginStore()
    login = _login(gateway, store)
    if login.is_fresh(time.time()) and login.access_token != refused:
        return login.access_token
    with store.locked():
        # Another may have refreshed it, or signed out, while we waited.
        login = _login(gateway, store)
        if login.is_fresh(time.time()) and login.access_token != refused:
            return login.access_token
        try:
            login = _refreshed(login)
        except OAuthRefused as refusal:
            if refusal.code != "invalid_grant":
                raise
            # Shown again and again it would count as an attack.
            store.remove(gateway)
            raise NotSignedIn(gateway, f"Your login at {gateway} has ended.") from None
        except Unreachable:
            if login.is_good(time.time()) and login.access_token != refused:
                return login.access_token
            raise
        store.put(login)
    return login.access_token


def keep(login: Login, *, store: LoginStore | None = None) -> None:
    """Keep a new login, and end the one that was there.

    Raises:
        UnsafeStore: the file of logins cannot be used.
    """
    store = store or LoginStore()
    with store.locked():
        before = store.get(login.gateway)
        store.put(login)
    if before is not None:
        try:
            _revoke(before)
        except (Refused, Unreachable):
            return  # it expires by itself, and nobody has its tokens any more


def sign_out(gateway: str, *, store: LoginStore | None = None) -> bool:
    """End a login here and at the gateway; whether there was one.

    Raises:
        Unreachable: forgotten here, but the gateway does not answer, so that it holds there until it expires.
        UnsafeStore: the file of logins cannot be used.
    """
    gateway, store = gateway_address(gateway), store or LoginStore()
    try:
        with store.locked():
            login = store.get(gateway)
            if login is None:
                return False
            try:
                # First: if we die in between, a login is left here that nobody believes, and not the other way round.
                _revoke(login)
            finally:
                store.remove(gateway)
    except (Refused, Unreachable) as error:
        raise Unreachable(
            f"The login is forgotten here, but it holds at the gateway until it expires, unless you end it there in a "
            f"browser: {error}"
        ) from None
    return True


def login_from(
    gateway: str, endpoints: Endpoints, answer: object, *, asked: Iterable[str], now: float | None = None
) -> Login:
    """The login that a token endpoint's answer begins (RFC 6749 section 5.1).

    Raises:
        Refused: it is not a bearer token with a refresh token.
    """
    access, refresh, lasts = _tokens(gateway, answer)
    scope = answer.get("scope") if isinstance(answer, dict) else None
    now = time.time() if now is None else now
    return Login(
        gateway=gateway,
        client_id=CLIENT_ID,
        scopes=tuple(sorted(plain(scope).split() if isinstance(scope, str) else asked)),
        token_endpoint=endpoints.token,
        revocation_endpoint=endpoints.revocation,
        obtained_at=now,
        expires_at=now + lasts,
        access_token=access,
        refresh_token=refresh,
    )


def _login(gateway: str, store: LoginStore) -> Login:
    login = store.get(gateway)
    if login is None:
        raise NotSignedIn(gateway)
    return login


def _refreshed(login: Login) -> Login:
    form = {"grant_type": "refresh_token", "refresh_token": login.refresh_token, "client_id": login.client_id}
    now = time.time()
    access, refresh, lasts = _tokens(login.gateway, post_form(login.token_endpoint, form))
    return login.renewed(access_token=access, refresh_token=refresh, now=now, lasts=lasts)


def _revoke(login: Login) -> None:
    """A refresh token ends the whole login (RFC 7009 section 2.1)."""
    post_form(login.revocation_endpoint, {"token": login.refresh_token, "client_id": login.client_id})


def _tokens(gateway: str, answer: object) -> tuple[str, str, float]:
    document = answer if isinstance(answer, dict) else {}
    access, refresh = document.get("access_token"), document.get("refresh_token")
    lasts, kind = document.get("expires_in", _LASTS_S), document.get("token_type")
    if (
        not isinstance(access, str)
        or not isinstance(refresh, str)
        or not all(text and text.isascii() and text.isprintable() and " " not in text for text in (access, refresh))
        or not isinstance(kind, str)
        or kind.lower() != "bearer"
        or isinstance(lasts, bool)
        or not isinstance(lasts, int | float)
        or not lasts > 0
    ):
        raise Refused(f"{gateway} gave no tokens that can be used.")
    return access, refresh, lasts
