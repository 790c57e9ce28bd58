"""What went wrong with an attempt, in plain words.

No exception's own text is passed on but that of the system and of TLS: others hold URLs, or what the receiver sent.
"""

from __future__ import annotations

import os
import socket
import ssl

import aiohttp

from app.adapters.webhook_sender.connections import AddressRefused, Connecting

_CERTIFICATE = {  # X509_V_ERR_… of openssl/x509_vfy.h
    9: "is not valid yet",
    10: "has expired",
    18: "is self-signed",
    19: "is signed by an authority that is not known here",
    20: "is signed by an authority that is not known here",
    21: "is signed by an authority that is not known here",
    23: "was revoked",
    26: "is not meant for servers",
    62: "is for another host",
    64: "is for another address",
}


def in_words(failure: BaseException, host: str, connection: Connecting) -> str:
    """Why there was no answer."""
    if connection.refused and (isinstance(failure, AddressRefused) or connection.address is None):
        return "refused: " + "; ".join(dict.fromkeys(connection.refused))
    at = f"{host} ({connection.address})" if connection.address and connection.address != host else host
    words: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
        # Of each two that are related, the narrower first.
        (AddressRefused, f"refused: {failure}"),
        (aiohttp.ClientProxyConnectionError, f"no connection to the proxy{_reason(failure)}"),
        (aiohttp.ClientHttpProxyError, f"the proxy did not connect to {host}: it answered {_status(failure)}"),
        (aiohttp.ClientConnectorCertificateError, f"the certificate of {host} {_certificate(failure)}"),
        (aiohttp.ClientConnectorDNSError, f"no address was found for {host}{_reason(failure)}"),
        (aiohttp.ClientSSLError, f"no TLS connection to {at}{_tls(failure)}"),
        (aiohttp.ClientConnectorError, f"no connection to {at}{_reason(failure)}"),
        (aiohttp.ConnectionTimeoutError, f"no connection to {at} in time"),
        (aiohttp.ServerDisconnectedError, f"{at} closed the connection before it answered"),
        (aiohttp.ClientResponseError, f"{at} did not answer in HTTP that can be read"),
        ((aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError), "the URL cannot be called"),
        (OSError, f"the connection to {at} broke{_reason(failure)}"),
    )
    said = next((text for kind, text in words if isinstance(failure, kind)), None)
    return said or f"no answer from {at}: {type(failure).__name__}"


def _certificate(failure: BaseException) -> str:
    error = getattr(failure, "certificate_error", None)
    if not isinstance(error, ssl.SSLCertVerificationError):
        return "cannot be verified"
    return _CERTIFICATE.get(error.verify_code, f"cannot be verified: {error.verify_message}")


def _status(failure: BaseException) -> int:
    return failure.status if isinstance(failure, aiohttp.ClientResponseError) else 0


def _tls(failure: BaseException) -> str:
    reason = getattr(failure.__cause__ or failure, "reason", None)
    return f": {reason.replace('_', ' ').lower()}" if isinstance(reason, str) else ""


def _reason(failure: BaseException) -> str:
    error = getattr(failure, "os_error", failure)
    if isinstance(error, socket.gaierror):
        return f": {error.strerror.lower()}" if error.strerror else ""
    if isinstance(error, OSError) and error.errno:
        return f": {os.strerror(error.errno).lower()}"
    return ""
