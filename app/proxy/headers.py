"""Which headers go through the door, in either direction.

What says who somebody is or where a request came from is dropped and written afresh: inside, only the gateway's word
counts. Hop-by-hop headers end here (RFC 9110 section 7.6.1).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from app.domain.errors import Forbidden, InvalidInput
from app.proxy.asgi import Headers, Scope

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
_NEVER_OUTWARD = _HOP_BY_HOP | {b"server", b"date"}
"""The server under the gateway writes its own ``Server`` and ``Date``."""

_OUR_COOKIES = ("countersign", "__host-countersign", "__secure-countersign")
_HEADER_COOKIES = "mlflow-request-header-"
"""MLflow's web interface sends a cookie of this name as a header, ``…-Authorization`` among them."""


def inward(scope: Scope, public_url: str) -> list[tuple[str, str]]:
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
    public = urlsplit(public_url)
    client = scope.get("client")
    kept.append(("x-forwarded-for", client[0] if client else "unknown"))
    kept.append(("x-forwarded-host", public.netloc))
    kept.append(("x-forwarded-proto", public.scheme))
    return kept


def outward(
    headers: Headers, upstream_url: str, added: tuple[tuple[bytes, bytes], ...] = ()
) -> list[tuple[bytes, bytes]]:
    """The headers for the caller, ``added`` in the place of MLflow's of the same names.

    A ``Location`` at MLflow's own address becomes one at ours.
    """
    dropped = _NEVER_OUTWARD | _named_by_connection(headers) | {name for name, _ in added}
    kept = []
    for raw_name, value in headers:
        name = raw_name.lower()
        if name in dropped:
            continue
        kept.append((name, _relative(value, upstream_url) if name == b"location" else value))
    kept.extend(added)
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
    return one(headers, b"content-length") not in {None, b"0"} or one(headers, b"transfer-encoding") is not None


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
    origin = one(scope["headers"], b"origin")
    if origin is None or scope["method"] in {"GET", "HEAD"}:
        return
    if _origin(origin.decode("latin-1")) != _origin(public_url):
        raise Forbidden("A page of another origin cannot change anything here.")


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    listed = b",".join(value for name, value in headers if name.lower() == b"connection")
    return frozenset(part.strip().lower() for part in listed.split(b",") if part.strip())


def _cookies(headers: Headers) -> str:
    sent = "; ".join(_text(value) for name, value in headers if name == b"cookie")
    pairs = (pair.strip() for pair in sent.split(";"))
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
