"""Clients of ours: who may send a person to us to be signed in to, where the answer may go, and what they may ask for.

All are public clients (RFC 6749 section 2.1): a command line and a page in a browser can keep no secret, so PKCE and
the registered redirect URI stand in for one.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from app.domain.errors import InvalidConfiguration, OAuthRefused
from app.domain.identity import Scope

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
LOOPBACK_PATH = "/callback"
_LOOPBACK_REDIRECT = re.compile(r"http://(?:127\.0\.0\.1|\[::1\]):([1-9][0-9]{0,4})" + LOOPBACK_PATH)
"""Any port, because the command line takes a free one (RFC 8252 section 7.3); by address, as a name may be made to
point elsewhere (section 8.3)."""
_CLIENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
"""A SHA-256 digest as URL-safe base64 (RFC 7636 section 4.2)."""
_VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
"""RFC 7636 section 4.1."""
_FIELDS = {"clientId", "title", "redirectUris", "origins", "scopes"}


@dataclass(frozen=True, slots=True)
class Client:
    """One client. ``scopes`` are the most that it may ask for."""

    id: str
    title: str
    scopes: frozenset[Scope]
    redirect_uris: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    is_native: bool = False
    """It runs on a person's own machine: it may redirect to a loopback address and use the device flow."""

    def may_redirect_to(self, uri: str) -> bool:
        """Whether the answer may be sent there: the very same text (RFC 9700 section 2.1), but for a native client's
        port.
        """
        if self.is_native and (match := _LOOPBACK_REDIRECT.fullmatch(uri)):
            return int(match[1]) <= 65_535
        return uri in self.redirect_uris

    def allowed(self, scopes: Iterable[Scope]) -> frozenset[Scope]:
        """Those of ``scopes`` that it may ask for.

        Raises:
            OAuthRefused: none is left.
        """
        left = self.scopes & frozenset(scopes)
        if not left:
            raise OAuthRefused("invalid_scope", f"This client may ask for {' '.join(sorted(self.scopes))} alone.")
        return left


COMMAND_LINE = Client(id="countersign-cli", title="Countersign command line", scopes=frozenset(Scope), is_native=True)
"""Built in. It may have every scope: a person has just signed in to it and sits before it."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Every client there is."""

    by_id: Mapping[str, Client]

    def get(self, client_id: str | None) -> Client:
        """A client.

        Raises:
            OAuthRefused: there is none of this id.
        """
        client = self.by_id.get(client_id or "")
        if client is None:
            raise OAuthRefused("invalid_client", "There is no such client: an operator registers it (`clients:`).")
        return client

    def title_of(self, client_id: str) -> str:
        """What people call a client; its id if it was taken out since."""
        client = self.by_id.get(client_id)
        return client.title if client else client_id

    @property
    def origins(self) -> frozenset[str]:
        """Whose scripts may call us."""
        return frozenset[str]().union(*(client.origins for client in self.by_id.values()))


def clients_from_documents(documents: object) -> Clients:
    """The built-in client, and those of the ``clients:`` list of the identity file (none: there is no such list).

    Raises:
        InvalidConfiguration: names the client and the field, and what was expected.
    """
    if documents is None:
        documents = []
    if not isinstance(documents, list):
        raise InvalidConfiguration("clients: expected a list")
    found = {COMMAND_LINE.id: COMMAND_LINE}
    for number, document in enumerate(documents, start=1):
        client = _client(f"clients[{number}]", document)
        if client.id in found:
            raise InvalidConfiguration(f"clients[{number}].clientId: {client.id} is there already")
        found[client.id] = client
    return Clients(found)


def _client(where: str, document: object) -> Client:
    if not isinstance(document, Mapping):
        raise InvalidConfiguration(f"{where}: expected an object with {', '.join(sorted(_FIELDS))}")
    if unknown := sorted(str(name) for name in set(document) - _FIELDS):
        raise InvalidConfiguration(f"{where}.{unknown[0]}: unknown; expected one of {', '.join(sorted(_FIELDS))}")
    client_id, title = document.get("clientId"), document.get("title")
    if not isinstance(client_id, str) or not _CLIENT_ID.fullmatch(client_id):
        raise InvalidConfiguration(f"{where}.clientId: expected up to 64 letters, digits, `.`, `_` and `-`")
    if not isinstance(title, str) or not 0 < len(title.strip()) <= 64 or not title.isprintable():
        raise InvalidConfiguration(f"{where}.title: expected 1 to 64 printable characters; people decide by it")
    redirects = [_redirect_uri(where, text) for text in _texts(where, document, "redirectUris")]
    if not redirects:
        raise InvalidConfiguration(f"{where}.redirectUris: expected at least one")
    scopes = [_scope(where, text) for text in _texts(where, document, "scopes")]
    if not scopes:
        raise InvalidConfiguration(f"{where}.scopes: expected at least one")
    return Client(
        id=client_id,
        title=title.strip(),
        scopes=frozenset(scopes),
        redirect_uris=frozenset(redirects),
        origins=frozenset(_origin(where, text) for text in _texts(where, document, "origins")),
    )


def _texts(where: str, document: Mapping[object, object], field: str) -> list[str]:
    values = document.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidConfiguration(f"{where}.{field}: expected a list of texts")
    return values


def _scope(where: str, text: str) -> Scope:
    if text == Scope.ADMIN:
        raise InvalidConfiguration(f"{where}.scopes: admin is for the command line alone, not for a web page")
    try:
        return Scope(text)
    except ValueError:
        offered = ", ".join(sorted(frozenset(Scope) - {Scope.ADMIN}))
        raise InvalidConfiguration(f"{where}.scopes: {text} is none of {offered}") from None


def _redirect_uri(where: str, text: str) -> str:
    parts = _web_address(where, "redirectUris", text)
    if parts.fragment or "#" in text or not parts.path:
        raise InvalidConfiguration(f"{where}.redirectUris: {text}: expected a path and no fragment")
    return text


def _origin(where: str, text: str) -> str:
    parts = _web_address(where, "origins", text)
    if text != f"{parts.scheme}://{parts.netloc}":
        raise InvalidConfiguration(f"{where}.origins: {text}: expected an origin, as https://dashboard.example")
    return text


def _web_address(where: str, field: str, text: str) -> SplitResult:
    refusal = InvalidConfiguration(
        f"{where}.{field}: {text}: expected https://…, or http://… on a loopback address, in lower case"
    )
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise refusal from None
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    is_plain = text.isascii() and text.isprintable() and not set(text) & set(" *\\\"<>'")
    # Browsers write origins in lower case and without the port that is the scheme's own (RFC 6454 section 6.1).
    is_canonical = parts.netloc == parts.netloc.lower() and port != {"https": 443, "http": 80}.get(parts.scheme)
    if not (is_safe and is_plain and is_canonical and parts.hostname) or "@" in parts.netloc:
        raise refusal
    return parts


def check_challenge(challenge: str | None, method: str | None) -> str:
    """A PKCE challenge (RFC 7636 section 4.3). ``plain`` is not offered: it protects nothing that leaks.

    Raises:
        OAuthRefused: it is missing or not one.
    """
    if method != "S256":
        raise OAuthRefused("invalid_request", "code_challenge_method must be S256.")
    if challenge is None or not _CHALLENGE.fullmatch(challenge):
        raise OAuthRefused("invalid_request", "code_challenge must be a SHA-256 digest as URL-safe base64.")
    return challenge


def fits_challenge(verifier: str | None, challenge: str) -> bool:
    """Whether whoever redeems a code is who asked for it (RFC 7636 section 4.6)."""
    if verifier is None or not _VERIFIER.fullmatch(verifier):
        return False
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
    return hmac.compare_digest(digest, challenge.encode())


def redirect_with(uri: str, answer: Mapping[str, str]) -> str:
    """A redirect URI with the answer in its query; what it had there stays (RFC 6749 section 4.1.2)."""
    parts = urlsplit(uri)
    query = [*parse_qsl(parts.query, keep_blank_values=True), *answer.items()]
    return urlunsplit(parts._replace(query=urlencode(query)))


def origin_of_redirect(uri: str) -> str:
    """Where a form that leads there must be allowed to lead (``form-action``)."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}"
