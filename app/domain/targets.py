"""The ``kind: Target`` document, and how a target is doing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from app.domain.deployments import MetricsSource, Target
from app.domain.documents import Fields, read_text
from app.domain.endpoint_documents import (
    read_networks,
    read_url,
    reference_fields,
    references_document,
    whole_number,
)
from app.domain.endpoints import ANY_PRIVATE, ReceiverState
from app.domain.errors import InvalidInput
from app.domain.networks import mistake_of, networks_of

_FIELDS = (
    *("name", "url"),
    *("secretFile", "secretEnv", "callbackSecretFile", "callbackSecretEnv"),
    *("allowNetworks", "allowPrivateNetwork", "deadlineSeconds"),
    *("options", "metrics"),
)
_METRICS_FIELDS = ("prometheusUrl", "tokenFile", "tokenEnv", "allowNetworks")
_LONGEST_NAME = 200
MOST_OPTIONS = 16_384
"""Bytes, as they are written in each call to the deployer."""
DEEPEST_OPTIONS = 8
_WHOLE = 2**53
"""RFC 8259 section 6: beyond, readers of JSON do not agree on a number."""


@dataclass(frozen=True, slots=True)
class StoredTarget:
    """A target and how it is doing."""

    target: Target
    state: ReceiverState
    state_reason: str | None
    failing_since: datetime | None
    updated_at: datetime


def target_from_document(document: Mapping[str, object]) -> Target:
    """Read a ``kind: Target`` document.

    Raises:
        InvalidInput: with the path of each wrong field and what was expected.
    """
    fields = Fields("", {name: value for name, value in document.items() if name != "kind"}, _FIELDS)
    if "allowPrivateNetwork" in fields and "allowNetworks" in fields:
        fields.refuse(
            "allowPrivateNetwork", "expected only one of it and allowNetworks; `true` is the same as [private]"
        )
    target = Target(
        name=fields.needed("name", _name, ""),
        url=fields.needed("url", read_url, ""),
        secrets=reference_fields(fields, "secret"),
        callback_secrets=reference_fields(fields, "callbackSecret"),
        allowed_networks=fields.get("allowNetworks", read_networks, ())
        or fields.get("allowPrivateNetwork", _private, ()),
        deadline_s=fields.get("deadlineSeconds", whole_number(1, 86_400), 900),
        options=fields.get("options", _options, {}),
        metrics=fields.get("metrics", _metrics, None),
    )
    fields.check()
    return target


def target_document(target: Target) -> dict[str, object]:
    """What was written to make it. The secrets themselves are nowhere in it."""
    return {
        "kind": "Target",
        "name": target.name,
        "url": target.url,
        **references_document("secret", target.secrets),
        **references_document("callbackSecret", target.callback_secrets),
        "allowNetworks": list(target.allowed_networks),
        "deadlineSeconds": target.deadline_s,
        **({"options": dict(target.options)} if target.options else {}),
        **({"metrics": _metrics_document(target.metrics)} if target.metrics else {}),
    }


def _metrics_document(metrics: MetricsSource) -> dict[str, object]:
    return {
        "prometheusUrl": metrics.url,
        **(references_document("token", (metrics.token,)) if metrics.token else {}),
        "allowNetworks": list(metrics.allowed_networks),
    }


def _metrics(where: str, value: object) -> MetricsSource:
    fields = Fields(where, value, _METRICS_FIELDS)
    is_signed_in = "tokenFile" in fields or "tokenEnv" in fields
    [token] = reference_fields(fields, "token", most=1) or (None,) if is_signed_in else (None,)
    url = fields.needed("prometheusUrl", _prometheus_url, "")
    networks = fields.get("allowNetworks", read_networks, ())
    fields.check()
    if mistake := mistake_of(urlsplit(url).hostname or "", networks_of(networks)):
        # It would be refused each time that it is asked.
        raise InvalidInput(f"{where}.prometheusUrl", mistake.replace("allowed_networks", "allowNetworks"))
    return MetricsSource(url, token, networks)


def _prometheus_url(where: str, value: object) -> str:
    url = read_url(where, value)
    if "?" in url:
        raise InvalidInput(where, "expected the address below which /api/v1/query is, without a query")
    return url


def _options(where: str, value: object) -> Mapping[str, object]:
    """Plain JSON, of a size that every call can carry."""
    if not isinstance(value, Mapping):
        raise InvalidInput(where, "expected an object: what the deployer of this target knows")
    _check_plain(where, value, depth=0)
    if len(json.dumps(value).encode()) > MOST_OPTIONS:
        raise InvalidInput(where, f"expected at most {MOST_OPTIONS} bytes, written as JSON")
    return dict(value)


def _check_plain(where: str, value: object, *, depth: int) -> None:
    if depth > DEEPEST_OPTIONS:
        raise InvalidInput(where, f"expected at most {DEEPEST_OPTIONS} levels")
    match value:
        case Mapping():
            for key, each in value.items():
                if not isinstance(key, str):
                    raise InvalidInput(where, f"expected texts as names, in quotes: {str(key)[:100]}")
                _check_plain(f"{where}.{key}", each, depth=depth + 1)
        case list():
            for index, each in enumerate(value):
                _check_plain(f"{where}[{index}]", each, depth=depth + 1)
        case None | bool() | str():
            pass
        case int() if abs(value) <= _WHOLE:
            pass
        case float() if math.isfinite(value):
            pass
        case _:
            raise InvalidInput(where, "expected what JSON can say: texts, numbers, true, false, null, lists, objects")


def _name(where: str, value: object) -> str:
    name = value if isinstance(value, str) else ""
    if not name.strip() or "/" in name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise InvalidInput(where, f"expected at most {_LONGEST_NAME} printable characters without `/`")
    return read_text(where, name)


def _private(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, bool):
        raise InvalidInput(where, "expected true or false")
    return (ANY_PRIVATE,) if value else ()
