"""Files over HTTP, from a byte on: by a URL that somebody signed, or through the gateway with a token."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from countersign_client.addresses import LOOPBACK, origin_of
from countersign_client.credentials import token_for
from countersign_client.errors import ClientError, NotSignedIn, Refused
from countersign_client.resolving import RESOLVE_SCOPES
from countersign_client.wire import NO_PROXY, TIMEOUT_S, TOO_MANY, USER_AGENT, plain

_PIECE = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/(?:[0-9]+|\*)", re.ASCII)
_STRONG_ETAG = re.compile(r'"[!#-~]*"', re.ASCII)
"""A weak one (``W/``) is the same for bytes that differ (RFC 9110, section 8.8.1)."""
_LONGEST_PROBLEM = 64 * 1024


@dataclass(frozen=True, slots=True)
class Opened:
    """A file from a byte on. The same ``etag`` means the same bytes; none: nothing says which they are."""

    begins_at: int
    etag: str | None
    pieces: Iterator[bytes]


class Broken(ClientError):
    """There was no answer, or it broke off. Trying again is right."""

    def __init__(self, message: str, *, has_answered: bool) -> None:
        super().__init__(message)
        self.has_answered = has_answered


class NotAllowed(ClientError):
    """A signed URL is not taken: most likely it has expired."""


class Gone(ClientError):
    """There is no such file any more, or it is another one."""


class Streams:
    """Reads files of one version.

    Args:
        gateway: its address.
        query: names the version, as ``GET /resolve/content`` wants it.
    """

    def __init__(self, gateway: str, query: Mapping[str, str]) -> None:
        self._gateway, self._query = gateway, dict(query)
        self._of_thread = threading.local()
        self._open: set[requests.Response] = set()
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Have every thread that reads stop waiting: it is told that it broke off."""
        with self._lock:
            for response in self._open:
                with suppress(Exception):  # whatever state it is in
                    response.raw.shutdown()

    @contextmanager
    def by_url(self, url: str, first: int, etag: str | None = None) -> Iterator[Opened]:
        """From ``first`` on if it is still what had that ETag, else from the start; a store may not heed it.

        Raises ``Broken``, ``NotAllowed``, ``Gone``, ``Refused``.
        """
        host = _host_of(url)
        if not host:
            raise Refused("The gateway gave a URL that is none of a store.")
        with self._opened(url, {}, first, etag, token=None, is_near=host in LOOPBACK) as response:
            match response.status_code:
                case 400 | 401 | 403:  # 400: of S3, when the credentials that signed it have expired
                    raise NotAllowed("The store does not take the URL.")
                case 404 | 410 | 412:
                    raise Gone("")
            yield self._found(response, first, "The store")

    @contextmanager
    def through_gateway(self, path: str, first: int, etag: str | None = None) -> Iterator[Opened]:
        """As ``by_url``. Raises ``Broken``, ``Gone``, ``Refused``, ``NotSignedIn``."""
        url, query = f"{self._gateway}/control/v1/resolve/content", {**self._query, "path": path}
        is_near = (origin_of(self._gateway) or "").startswith("http:")
        token = token_for(self._gateway, scopes=RESOLVE_SCOPES)
        for attempt in (1, 2):
            with self._opened(url, query, first, etag, token=token, is_near=is_near) as response:
                if response.status_code == requests.codes.unauthorized and attempt == 1:
                    token = token_for(self._gateway, refused=token, scopes=RESOLVE_SCOPES)
                    continue
                if response.status_code == requests.codes.unauthorized:
                    raise NotSignedIn(self._gateway)
                if response.status_code in {404, 409, 412, 416}:
                    raise Gone(_detail(response))
                yield self._found(response, first, self._gateway)
                return

    @contextmanager
    def _opened(
        self, url: str, query: Mapping[str, str], first: int, etag: str | None, *, token: str | None, is_near: bool
    ) -> Iterator[requests.Response]:
        def authorise(request: requests.PreparedRequest) -> requests.PreparedRequest:
            # Without this, `requests` would send what ~/.netrc has for the host.
            if token is not None:
                request.headers["Authorization"] = f"Bearer {token}"
            return request

        headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
        if first:
            headers["Range"] = f"bytes={first}-"
            if etag:
                headers["If-Range"] = etag
        has_answered = False
        try:
            with self._session().get(
                url,
                params=query,
                auth=authorise,
                headers=headers,
                proxies=NO_PROXY if is_near else None,
                timeout=TIMEOUT_S,
                allow_redirects=False,
                stream=True,
            ) as response:
                has_answered = True
                with self._lock:
                    self._open.add(response)
                try:
                    yield response
                finally:
                    with self._lock:
                        self._open.discard(response)
        # The causes are left out: they quote the URL, which is a secret itself.
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError):
            where = self._gateway if token else "The artifact store"
            raise Broken(f"{where} does not answer, or broke off.", has_answered=has_answered) from None

    def _found(self, response: requests.Response, first: int, where: str) -> Opened:
        status = response.status_code
        if status == TOO_MANY or status >= 500:
            raise Broken(f"{where} cannot answer now ({status}).", has_answered=True)
        if status not in {200, 206}:
            raise Refused(_detail(response) or f"{where} refused it ({status}).", status=status)
        begins_at = 0
        if status == 206:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            begins_at = int(found.group(1)) if found else -1
            if begins_at != first:
                raise Refused(f"{where} sent another part of the file than was asked for.")
        etag = response.headers.get("ETag", "")
        return Opened(
            begins_at,
            etag if _STRONG_ETAG.fullmatch(etag) else None,
            response.raw.stream(_PIECE, decode_content=False),
        )

    def _session(self) -> requests.Session:
        """One for each thread: connections are used again."""
        session = getattr(self._of_thread, "session", None)
        if session is None:
            session = self._of_thread.session = requests.Session()
        return session


def _host_of(url: str) -> str | None:
    """None of what is no web address."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return parts.hostname if parts.scheme in {"https", "http"} else None


def _detail(response: requests.Response) -> str:
    """What a problem document says (RFC 9457)."""
    if "json" not in response.headers.get("Content-Type", ""):
        return ""
    try:
        response._content = response.raw.read(_LONGEST_PROBLEM, decode_content=True)  # noqa: SLF001  # bounded; `json` reads it
        document = response.json()
    except (ValueError, RecursionError, urllib3.exceptions.HTTPError):
        return ""
    return plain(document.get("detail")) if isinstance(document, dict) else ""
