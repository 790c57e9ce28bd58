"""Where tokens may go: the one spelling of a gateway's address, and the origin of any other."""

from __future__ import annotations

from urllib.parse import urlsplit

from countersign_client.errors import InvalidAddress

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_DEFAULT_PORTS = {"https": 443, "http": 80}


def gateway_address(text: str) -> str:
    """The address of a gateway as it is compared and kept: ``https://host[:port]``.

    Raises:
        InvalidAddress: it is not https (or http on this machine), or has more than scheme, host and port.
    """
    origin = origin_of(text.strip())
    if origin is None:
        raise InvalidAddress("Expected the gateway's address: https://…, or http://… on this machine alone.")
    parts = urlsplit(text.strip())
    if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidAddress(f"Expected the gateway's address without user, path and query: {origin}")
    return origin


def origin_of(url: str) -> str | None:
    """Scheme, host and port of an address (RFC 6454 section 4); none if no token may be sent there at all."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if not host or scheme not in _DEFAULT_PORTS or (scheme == "http" and host not in LOOPBACK):
        return None
    # What is not plain has several spellings, of which a proxy or a library may choose another than we do.
    if not host.isascii() or not host.isprintable() or set(host) & set(" \\%#?/"):
        return None
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" if port in {None, _DEFAULT_PORTS[scheme]} else f"{scheme}://{host}:{port}"
