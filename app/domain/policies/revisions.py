"""Revisions: written once, numbered, never changed. The newest is in force, unless it ends the policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from app.domain.documents import Fields, read_text, read_truth
from app.domain.policies.documents import document_of, policy_from_document
from app.domain.policies.policy import Policy


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision, as it was written, when, and by whom (``<issuer>|<subject>``, or ``operator``)."""

    name: str
    number: int
    written: Mapping[str, object]
    created_at: datetime
    created_by: str

    @property
    def is_retired(self) -> bool:
        """Whether it ends the policy: it protects nothing any more."""
        return self.written.get("retired") is True

    @property
    def models(self) -> str:
        """The pattern of the models that it is, or was, about."""
        return str(self.written["models"])

    @property
    def workspaces(self) -> str:
        """The pattern of the workspaces of these models."""
        return str(self.written.get("workspaces", "*"))

    @property
    def policy(self) -> Policy:
        """What it says. Not to be asked of one that ends the policy."""
        return policy_from_document(self.written, revision=self.number)

    @property
    def document(self) -> Mapping[str, object]:
        """Everything it says, also what was left to its default."""
        return self.written if self.is_retired else document_of(self.policy)

    @property
    def etag(self) -> str:
        return f'"{self.number}"'


@dataclass(frozen=True, slots=True)
class Retirement:
    """The wish that a policy ends."""

    name: str


def retired_document(policy: Policy) -> dict[str, object]:
    """What the last revision says; also what the policy was about, for who may read of that."""
    about = {"models": policy.models, "alias": policy.alias, "workspaces": policy.workspaces}
    return {"kind": "Policy", "name": policy.name, **about, "retired": True}


def policy_or_retirement(document: Mapping[str, object]) -> Policy | Retirement:
    """Read a ``kind: Policy`` document, or ``{kind: Policy, name: …, retired: true}``.

    Raises:
        InvalidInput: with the path of each wrong field and what was expected.
    """
    if "retired" not in document:
        return policy_from_document(document, revision=0)
    fields = Fields("", {name: value for name, value in document.items() if name != "kind"}, _RETIRED)
    if fields.get("retired", read_truth, default=True) is not True:
        fields.refuse("retired", "expected true, or nothing: a policy is made anew by writing it")
    name = fields.needed("name", read_text, "")
    fields.check()
    return Retirement(name)


_RETIRED = ("name", "retired", "models", "alias", "workspaces")
