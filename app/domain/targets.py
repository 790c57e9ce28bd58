"""The ``kind: Target`` document, and how a target is doing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app.domain.deployments import Target
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

_FIELDS = (
    *("name", "url"),
    *("secretFile", "secretEnv", "callbackSecretFile", "callbackSecretEnv"),
    *("allowNetworks", "allowPrivateNetwork", "deadlineSeconds"),
)
_LONGEST_NAME = 200


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
    }


def _name(where: str, value: object) -> str:
    name = value if isinstance(value, str) else ""
    if not name.strip() or "/" in name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise InvalidInput(where, f"expected at most {_LONGEST_NAME} printable characters without `/`")
    return read_text(where, name)


def _private(where: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, bool):
        raise InvalidInput(where, "expected true or false")
    return (ANY_PRIVATE,) if value else ()
