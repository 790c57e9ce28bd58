"""What a browser says of where a request comes from: a page of another origin changes nothing with a person's session.

A cookie goes along with requests that other pages make. Browsers tell who made a request in ``Origin`` and
``Sec-Fetch-Site`` (Fetch Metadata), which no page can forge; a request that says neither is no browser's of today.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from app.domain.errors import CrossOrigin

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Those that change nothing (RFC 9110 section 9.2.1)."""
_FROM_HERE = frozenset({b"same-origin", b"none"})
"""``none``: the person did it, as by typing the address."""
_PORTS = {"http": 80, "https": 443}

Origin = tuple[str, str, int | None]


def check_request_origin(method: str, headers: Iterable[tuple[bytes, bytes]], public_url: str) -> None:
    """Refuse a request with a session cookie that does not come from our own pages.

    For callers with a session alone: a token in a header is never sent by a browser of its own accord.

    Raises:
        CrossOrigin: it was sent to another host name (DNS rebinding), or would change something and comes from a page
            of another origin, or does not say where from.
    """
    told: dict[bytes, list[bytes]] = {b"host": [], b"origin": [], b"sec-fetch-site": []}
    for name, value in headers:
        if (found := told.get(name.lower())) is not None:
            found.append(value)
    if any(len(values) > 1 for values in told.values()):
        raise CrossOrigin("A header that says where a request comes from was sent twice.")
    host, origin, site = (next(iter(values), None) for values in told.values())
    _check_host(host, public_url)
    if method.upper() in SAFE_METHODS:
        return
    if site is not None and site.strip().lower() not in _FROM_HERE:
        raise CrossOrigin("A page of another site cannot change anything here with your session.")
    if origin is not None and origin_of(origin.decode("latin-1")) != origin_of(public_url):
        raise CrossOrigin("A page of another origin cannot change anything here with your session.")
    if origin is None and site is None:
        raise CrossOrigin(
            "With a session, a change must say where it comes from (`Origin`). Programs use an access token instead."
        )


def is_navigation(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a person waits for a page: a browser goes to an address or sends a form, and no script asks for data.

    Browsers that do not tell (``Sec-Fetch-Mode``) ask for HTML by name, which programs do not.
    """
    mode = accept = b""
    for name, value in headers:
        if name == b"sec-fetch-mode":
            mode = value
        elif name == b"accept":
            accept = value
    return mode == b"navigate" if mode else b"text/html" in accept.lower()


def is_script_of_our_page(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a page of this origin loads a script to run (Fetch Metadata; no page can say so of its own requests)."""
    told = dict(headers)
    return told.get(b"sec-fetch-dest") == b"script" and told.get(b"sec-fetch-site") == b"same-origin"


def is_our_host(host: bytes | None, public_url: str) -> bool:
    """Whether the ``Host`` that was asked for is the one of ``public_url``."""
    if host is None:
        return False
    public = urlsplit(public_url)
    return origin_of(f"{public.scheme}://{host.decode('latin-1').strip()}") == origin_of(public_url)


def origin_of(url: str) -> Origin | None:
    """Scheme, host and port (RFC 6454 section 4); none if there is no origin in it, as in ``null``."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if not parts.scheme or not parts.hostname or parts.username is not None:
        return None
    return parts.scheme, parts.hostname, port or _PORTS.get(parts.scheme)


def _check_host(host: bytes | None, public_url: str) -> None:
    if not is_our_host(host, public_url):
        raise CrossOrigin(
            f"A session is good at {public_url} alone, and this was sent to another host name. A proxy before the "
            "gateway must pass `Host` on as it is."
        )
