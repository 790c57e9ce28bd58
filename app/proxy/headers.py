"""Which headers go through the door, in either direction.

What says who somebody is or where a request came from is dropped and written afresh: inside, only the gateway's word
counts. Hop-by-hop headers end here (RFC 9110 section 7.6.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from app.domain.errors import Forbidden, InvalidInput
from app.proxy.asgi import Headers, Scope
from app.proxy.content_security import protective as protective_headers

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
_NEVER_INWARD = _HOP_BY_HOP | {
    b"host",
    b"expect",
    b"content-length",
    b"authorization",
    b"cookie",
    b"origin",
    b"forwarded",
    b"via",
    b"proxy",  # CGI and its heirs take it for the variable HTTP_PROXY
    b"x-real-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"true-client-ip",
    b"client-ip",
    b"x-original-url",
    b"x-rewrite-url",
    b"x-http-method-override",
    b"x-mlflow-workspace",
}
_NEVER_INWARD_PREFIXES = (b"x-forwarded-", b"x-remote-", b"x-countersign-")
_REPLACED = {b"content-security-policy-report-only", *(name for name, _ in protective_headers(None, https=True))}
_NEVER_OUTWARD = _HOP_BY_HOP | _REPLACED | {b"server", b"date"}
"""The server under the gateway writes its own ``Server`` and ``Date``."""

_FOR_THIS_CALLER = (b"cache-control", b"private, no-cache")
"""Where MLflow does not say it: a cache on the way does not know a cookie for a credential (RFC 9111 section 3.5), and
some keep files by their names alone."""

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_OUR_COOKIES = ("countersign", "__host-countersign", "__secure-countersign")
_HEADER_COOKIES = "mlflow-request-header-"
"""MLflow's web interface sends a cookie of this name as a header, ``…-Authorization`` among them."""


def forwarded(public_url: str) -> tuple[tuple[str, str], ...]:
    """What MLflow is told of the address that callers use. Worked out once."""
    public = urlsplit(public_url)
    return (("x-forwarded-host", public.netloc), ("x-forwarded-proto", public.scheme))


def inward(scope: Scope, forwarded_as: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers for MLflow, without ``Host`` and ``Content-Length``, which are the upstream client's to write."""
    headers: Headers = scope["headers"]
    dropped = _named_by_connection(headers)
    kept = [
        (name.decode("latin-1"), _text(value))
        for name, value in headers
        if name not in _NEVER_INWARD
        and name not in dropped
        and not name.startswith(_NEVER_INWARD_PREFIXES)
        and b"_" not in name  # WSGI cannot tell `_` from `-` (RFC 3875 section 4.1.18)
    ]
    if cookies := _cookies(headers):
        kept.append(("cookie", cookies))
    client = scope.get("client")
    kept.append(("x-forwarded-for", client[0] if client else "unknown"))
    kept.extend(forwarded_as)
    return kept


def outward(
    headers: Headers, upstream_url: str, protective: Iterable[tuple[bytes, bytes]]
) -> list[tuple[bytes, bytes]]:
    """The headers for the caller, ``protective`` ones in the place of MLflow's of those names.

    A ``Location`` at MLflow's own address becomes one at ours. What MLflow does not speak of is for this caller alone.
    """
    lowered = [(name.lower(), value) for name, value in headers]
    dropped = _named_by_connection(lowered)
    kept = [
        (name, _relative(value, upstream_url) if name == b"location" else value)
        for name, value in lowered
        if name not in _NEVER_OUTWARD and name not in dropped
    ]
    kept.extend(protective)
    if not any(name == b"cache-control" for name, _ in kept):
        kept.append(_FOR_THIS_CALLER)
    return kept


def one(headers: Headers, name: bytes) -> bytes | None:
    """The value of a header that may be sent once.

    Raises:
        InvalidInput: it was sent more than once; two servers seldom agree on which one counts.
    """
    values = [value for each, value in headers if each == name]
    if len(values) > 1:
        raise InvalidInput(name.decode("latin-1"), "expected once")
    return values[0] if values else None


def without(headers: list[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    """The headers but ``name``."""
    return [pair for pair in headers if pair[0] != name]


def has_body(headers: Headers) -> bool:
    """Whether a body follows (RFC 9112 section 6.3)."""
    if not any(name in _FRAMING for name, _ in headers):
        return False
    return one(headers, b"content-length") not in {None, b"0"} or one(headers, b"transfer-encoding") is not None


def announces_body(headers: Headers) -> bool:
    """Whether something says, rightly or not, that a body follows."""
    return any(name in _FRAMING and value != b"0" for name, value in headers)


def declared_length(headers: Headers) -> int | None:
    """The bytes of the body that follows, if the caller says so.

    Raises:
        InvalidInput: it is not a number.
    """
    declared = one(headers, b"content-length")
    if declared is None:
        return None
    if not declared.isdigit():
        raise InvalidInput("content-length", "expected a number")
    return int(declared)


def check_json(headers: Headers) -> None:
    """Refuse a body that is not plainly JSON in UTF-8.

    Raises:
        InvalidInput: MLflow would refuse it, or decode it otherwise than we do.
    """
    if one(headers, b"content-encoding") is not None:
        raise InvalidInput("content-encoding", "expected a body that is not encoded")
    kind, _, parameters = (one(headers, b"content-type") or b"").decode("latin-1").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if kind.strip().lower() != "application/json" or charset not in {"", "charset=utf-8"}:
        raise InvalidInput("content-type", "expected application/json")


def check_origin(scope: Scope, public_url: str) -> None:
    """Refuse what a page of another origin wants to change (MLflow's own check sees only its inner address).

    Raises:
        Forbidden: the ``Origin`` is not that of ``public_url``.
    """
    if scope["method"] in {"GET", "HEAD"}:
        return
    origin = one(scope["headers"], b"origin")
    if origin is not None and _origin(origin.decode("latin-1")) != _origin(public_url):
        raise Forbidden("A page of another origin cannot change anything here.")


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """The headers, named in lower case, that ``Connection`` says end here."""
    listed = [value for name, value in headers if name == b"connection"]
    if not listed or listed in _NAMELESS:
        return frozenset()
    return frozenset(part.strip().lower() for value in listed for part in value.split(b",") if part.strip())


_NAMELESS = ([b"keep-alive"], [b"close"])
"""What ``Connection`` nearly always is."""


def _cookies(headers: Headers) -> str:
    sent = [_text(value) for name, value in headers if name == b"cookie"]
    pairs = (pair.strip() for value in sent for pair in value.split(";"))
    return "; ".join(pair for pair in pairs if pair and not _is_ours(pair.partition("=")[0].strip().lower()))


def _is_ours(cookie: str) -> bool:
    return cookie.startswith((_HEADER_COOKIES, *_OUR_COOKIES))


def _relative(location: bytes, upstream_url: str) -> bytes:
    parts = urlsplit(location.decode("latin-1"))
    if parts.netloc and parts.netloc == urlsplit(upstream_url).netloc:
        return (parts._replace(scheme="", netloc="").geturl() or "/").encode("latin-1")
    return location


def _text(value: bytes) -> str:
    """As the upstream client writes it back, which is in UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
