"""A login, or a pipeline's identity, as `requests` uses it: the token goes to its own gateway and to nobody else."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import requests
from requests.auth import AuthBase

from countersign_client.addresses import origin_of
from countersign_client.credentials import token_for, whence
from countersign_client.errors import InvalidAddress, NotSignedIn, Unreachable
from countersign_client.resolving import gateway_of_environment
from countersign_client.session import access_token
from countersign_client.store import Login, LoginStore

SCOPES = ("registry", "track")
"""Of a token that is exchanged for a pipeline's identity: what MLflow's client takes."""


class GatewayAuth(AuthBase):
    """Adds the token of the login at the request's own origin, if there is one; a request to anywhere else goes as it
    is. ``requests`` takes the header off again before it follows a redirect to another origin.

    Without a login, what ``credentials.token_for`` has for the gateway that the environment names, and for no other.

    A request that has an ``Authorization`` header keeps it.
    """

    def __init__(self, store: LoginStore | None = None) -> None:
        self._store = store

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Called by ``requests`` with each request.

        Raises:
            NotSignedIn: the login has ended.
            UnsafeStore: the file of logins cannot be used.
        """
        gateway = origin_of(request.url or "")
        if gateway is None or "Authorization" in request.headers:
            return request
        token = self._token(gateway)
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        start = None
        with suppress(AttributeError, OSError):
            start = request.body.tell()  # type: ignore[union-attr]  # a file, if it can
        request.register_hook("response", partial(self._answered, gateway=gateway, token=token, start=start))
        return request

    def _token(self, gateway: str) -> str | None:
        login = self._login(gateway)
        if login is None and not self._is_for_environment(gateway):
            return None
        try:
            return self._good(gateway)
        except Unreachable:
            # MLflow tries a request again that meets no gateway; and when it is back, its 401 has this refreshed.
            return login.access_token if login else None

    def _good(self, gateway: str, *, refused: str | None = None) -> str:
        if self._login(gateway) is not None:
            return access_token(gateway, store=self._store, refused=refused)
        return token_for(gateway, scopes=SCOPES, refused=refused)

    def _login(self, gateway: str) -> Login | None:
        return (self._store or LoginStore()).get(gateway)

    def _is_for_environment(self, gateway: str) -> bool:
        """Whether it is the gateway that is named there, by who gave this process an identity or a token."""
        if self._store is not None:
            return False
        try:
            named = origin_of(gateway_of_environment())
        except InvalidAddress:
            return False
        return named == gateway and whence(gateway) is not None

    def _answered(
        self,
        response: requests.Response,
        *,
        gateway: str,
        token: str | None,
        start: int | None,
        **options: Any,  # noqa: ANN401  # what `requests` was given
    ) -> requests.Response:
        """What ``requests`` does with the answer: once again with a new token if this one was not taken (RFC 6750
        section 3.1), as its own digest authentication does.
        """
        request = response.request
        # After a redirect to elsewhere, the answer is another's.
        if response.status_code != requests.codes.unauthorized or origin_of(request.url or "") != gateway:
            return response
        if token is None and not self._is_for_environment(gateway):
            raise NotSignedIn(gateway)
        if request.headers.get("Authorization") != (f"Bearer {token}" if token else None):
            return response
        try:
            renewed = self._good(gateway, refused=token)
        except Unreachable:
            return response
        body = request.body
        if start is not None:
            body.seek(start)  # type: ignore[union-attr]  # it could tell
        elif body is not None and not isinstance(body, str | bytes):
            return response  # it is spent, and cannot be sent again
        _ = response.content  # so that the connection can be used again
        response.close()
        again = request.copy()
        again.headers["Authorization"] = f"Bearer {renewed}"
        answer: requests.Response = response.connection.send(again, **options)
        answer.history.append(response)
        answer.request = again
        return answer
