"""The ``kind: Endpoint`` document that people write, and what it shares with that of a target: addresses and secrets.

::

    kind: Endpoint
    name: ci
    url: https://ci.example/hooks/countersign
    events: [promotion.*, version.registered]
    models: ["fraud-*"]              # also aliases, workspaces; nothing stands for every one
    signing: ed25519                 # or hmac; or secretFile, secretEnv: one, or two while they are changed
    allowNetworks: [10.0.0.0/8]      # private networks that it may be in
    timeoutSeconds: 10
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from app.domain.documents import MOST, Fields, Reader, each_of, one_of, read_text, read_truth
from app.domain.endpoints import Channel, Endpoint, Signing
from app.domain.errors import InvalidInput
from app.domain.events import EventType
from app.domain.grants import LONGEST_PATTERN, MOST_STARS
from app.domain.networks import mistake_of, networks_of, shown
from app.domain.notifications import QUIET_EVENTS
from app.domain.webhook_keys import DERIVED

LONGEST_NAME = 128
LONGEST_URL = 2_048
LONGEST_DESCRIPTION = 1_000
LONGEST_TIMEOUT_S = 30
MOST_SECRETS = 2
"""At a time: while a receiver is changed from one to the next, it is signed with both."""

_QUIET = tuple(each.value for each in QUIET_EVENTS)
_DEFAULT = Endpoint("", None, ())
_COMMON = ("name", "description", "channel", "events", "models", "aliases", "workspaces", "timeoutSeconds", "disabled")
_OF_WEBHOOKS = ("url", "signing", "secretFile", "secretEnv", "allowNetworks")
_OF_PEOPLE = ("urlFile", "urlEnv")
_FIELDS = (*_COMMON, *_OF_WEBHOOKS, *_OF_PEOPLE)
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_SIMILAR = 3


def endpoint_from_document(document: Mapping[str, object]) -> Endpoint:
    """Read a ``kind: Endpoint`` document.

    With ``signing`` its keys are not named yet: ``app.domain.endpoints.with_keys`` names them.

    Raises:
        InvalidInput: with the path of each wrong field and what was expected.
    """
    fields = Fields("", {name: value for name, value in document.items() if name != "kind"}, _FIELDS)
    channel = fields.get("channel", one_of(Channel), Channel.WEBHOOK)
    is_webhook = channel is Channel.WEBHOOK
    for name in _OF_PEOPLE if is_webhook else _OF_WEBHOOKS:
        if name in fields:
            instead = "url" if is_webhook else "urlFile or urlEnv"
            fields.refuse(name, f"expected {instead} instead where the channel is {channel}")
    endpoint = Endpoint(
        name=fields.needed("name", read_endpoint_name, ""),
        url=fields.needed("url", read_url, "") if is_webhook else None,
        secrets=_signed_with(fields) if is_webhook else reference_fields(fields, "url", most=1),
        channel=channel,
        events=fields.get("events", _event_patterns, _DEFAULT.events if is_webhook else _QUIET),
        models=fields.get("models", _patterns, _DEFAULT.models),
        aliases=fields.get("aliases", _patterns, _DEFAULT.aliases),
        workspaces=fields.get("workspaces", _patterns, _DEFAULT.workspaces),
        allowed_networks=fields.get("allowNetworks", read_networks, ()),
        timeout_s=fields.get("timeoutSeconds", whole_number(1, LONGEST_TIMEOUT_S), _DEFAULT.timeout_s),
        description=fields.get("description", _description, ""),
        disabled=fields.get("disabled", read_truth, default=False),
    )
    fields.check()
    host = urlsplit(endpoint.url).hostname if endpoint.url else None
    if host and (mistake := mistake_of(host, networks_of(endpoint.allowed_networks))):
        # It would be refused each time that it is called.
        raise InvalidInput("url", mistake.replace("allowed_networks", "allowNetworks"))
    return endpoint


def endpoint_document(endpoint: Endpoint) -> dict[str, object]:
    """The document that ``endpoint_from_document`` reads back to the same endpoint. It says everything but secrets."""
    document: dict[str, object] = {"kind": "Endpoint", "name": endpoint.name, "channel": endpoint.channel.value}
    if endpoint.channel is Channel.WEBHOOK:
        document["url"] = endpoint.url
    document |= {
        "events": list(endpoint.events),
        "models": list(endpoint.models),
        "aliases": list(endpoint.aliases),
        "workspaces": list(endpoint.workspaces),
    }
    if endpoint.channel is not Channel.WEBHOOK:
        document |= references_document("url", endpoint.secrets)
    elif endpoint.signing is not None:
        document["signing"] = endpoint.signing.value
    else:
        document |= references_document("secret", endpoint.secrets)
    if endpoint.channel is Channel.WEBHOOK:
        document["allowNetworks"] = list(endpoint.allowed_networks)
    return document | {
        "timeoutSeconds": endpoint.timeout_s,
        "description": endpoint.description,
        "disabled": endpoint.disabled,
    }


def masked_document(endpoint: Endpoint) -> dict[str, object]:
    """The document for whoever does not administer endpoints, and for the audit log: URLs may hold a secret too."""
    document = endpoint_document(endpoint)
    return document if endpoint.url is None else document | {"url": shown(endpoint.url)}


def cautions(endpoint: Endpoint) -> tuple[str, ...]:
    """What is allowed and likely a mistake, for a person to read."""
    if endpoint.url is None or urlsplit(endpoint.url).scheme != "http" or endpoint.allowed_networks:
        return ()
    return ("url: over http:// whoever is on the way can read the messages, though not forge them; use https://",)


# What targets have too.


def read_url(where: str, value: object) -> str:
    """An address that can be called, without credentials and fragment."""
    expected = "expected an http:// or https:// URL with a host, and without credentials, spaces and fragment"
    if not isinstance(value, str) or not value.isascii() or not value.isprintable() or " " in value or "\\" in value:
        raise InvalidInput(where, expected)
    if len(value) > LONGEST_URL:
        raise InvalidInput(where, f"expected at most {LONGEST_URL} characters")
    try:
        parts = urlsplit(value)
        has_port = parts.port != 0
    except ValueError:
        raise InvalidInput(where, expected) from None
    is_url = parts.scheme in {"http", "https"} and parts.hostname and has_port
    if not is_url or parts.username is not None or parts.password is not None or "#" in value:
        raise InvalidInput(where, expected)
    return value


def read_networks(where: str, value: object) -> tuple[str, ...]:
    """Private networks in which a receiver may be."""
    found = _texts(where, value)
    problems = []
    for index, text in enumerate(found):
        try:
            networks_of((text,))
        except ValueError as error:
            problems.append((f"{where}[{index}]", str(error)))
    if problems:
        raise InvalidInput.of_all(problems)
    return found


def is_within(network: str, bounds: tuple[str, ...]) -> bool:
    """Whether all of a network (or of ``private``) is in one of ``bounds``."""
    return all(
        any(part.version == bound.version and part.subnet_of(bound) for bound in networks_of(bounds))  # type: ignore[arg-type]  # of one version
        for part in networks_of((network,))
    )


def reference_fields(fields: Fields, field: str, *, most: int = MOST_SECRETS) -> tuple[str, ...]:
    """The references that ``<field>File`` or ``<field>Env`` stand for, exactly one of them, the newest first."""
    named = [kind for kind in ("File", "Env") if f"{field}{kind}" in fields]
    if len(named) != 1:
        fields.refuse(f"{field}File", f"expected {field}File or {field}Env, exactly one; the secret itself never")
        return ()
    [kind] = named
    names = fields.needed(f"{field}{kind}", _names_of_secrets(most), ())
    return tuple(f"{kind.lower()}:{name}" for name in names)


def references_document(field: str, references: tuple[str, ...]) -> dict[str, object]:
    """As it was written: one name, or a list of them."""
    kind = references[0].partition(":")[0]
    names = [reference.partition(":")[2] for reference in references]
    return {f"{field}{kind.capitalize()}": names[0] if len(names) == 1 else names}


def whole_number(least: int, most: int) -> Reader[int]:
    def read(where: str, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidInput(where, f"expected a whole number from {least} to {most}")
        return value

    return read


# The rest of an endpoint.


def read_endpoint_name(where: str, value: object) -> str:
    """An endpoint's name, if it is one: it is a part of addresses."""
    if not isinstance(value, str) or len(value) > LONGEST_NAME or not _NAME.fullmatch(value):
        raise InvalidInput(
            where, f"expected at most {LONGEST_NAME} lower-case letters, digits, `-`, `_` and `.`, as ci or risk-desk"
        )
    return value


def _signed_with(fields: Fields) -> tuple[str, ...]:
    if "signing" in fields and ("secretFile" in fields or "secretEnv" in fields):
        fields.refuse("signing", "expected signing, or secretFile or secretEnv, and not both")
        return ()
    if "signing" in fields:
        signing = fields.needed("signing", one_of(Signing), None)
        return (f"{DERIVED}{signing}",) if signing else ()
    if "secretFile" not in fields and "secretEnv" not in fields:
        fields.refuse("signing", "expected `signing: ed25519` or `hmac`; or secretFile or secretEnv; the secret never")
        return ()
    return reference_fields(fields, "secret")


def _names_of_secrets(most: int) -> Reader[tuple[str, ...]]:
    def read(where: str, value: object) -> tuple[str, ...]:
        names = (read_text(where, value),) if isinstance(value, str) else each_of(read_text)(where, value)
        if not 1 <= len(names) <= most or len(set(names)) < len(names):
            many = "one name" if most == 1 else f"one name, or up to {most} different ones, the newest first"
            raise InvalidInput(where, f"expected {many}")
        return names

    return read


def _texts(where: str, value: object) -> tuple[str, ...]:
    """A list of texts; one text stands for a list of one."""
    return (read_text(where, value),) if isinstance(value, str) else each_of(read_text)(where, value)


def _patterns(where: str, value: object) -> tuple[str, ...]:
    found = _texts(where, value)
    if not found:
        raise InvalidInput(where, f"expected one pattern at least, and {MOST} at most; left out, it is every one")
    for index, pattern in enumerate(found):
        if len(pattern) > LONGEST_PATTERN or not pattern.isprintable() or pattern.count("*") > MOST_STARS:
            raise InvalidInput(
                f"{where}[{index}]",
                f"expected a pattern of at most {LONGEST_PATTERN} printable characters and {MOST_STARS} `*`",
            )
    return found


def _event_patterns(where: str, value: object) -> tuple[str, ...]:
    found = _patterns(where, value)
    known = [type_.value for type_ in EventType]
    problems = []
    for index, pattern in enumerate(found):
        if not any(fnmatchcase(name, pattern) for name in known):
            similar = get_close_matches(pattern, known, n=_SIMILAR, cutoff=0.4)
            hint = f"; did you mean {', '.join(similar)}?" if similar else f"; there are {', '.join(known)}"
            problems.append((f"{where}[{index}]", f"matches no type of event{hint}"))
    if problems:
        raise InvalidInput.of_all(problems)
    return found


def _description(where: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_DESCRIPTION:
        raise InvalidInput(where, f"expected a text of at most {LONGEST_DESCRIPTION} characters")
    return value
