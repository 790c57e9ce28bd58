"""Who may do what: bearer tokens that rotate, and the rules of Roles as Kubernetes reads them."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Rule = Mapping[str, Sequence[str]]
"""A rule of a Role: ``apiGroups``, ``resources``, ``verbs`` and perhaps ``resourceNames``."""
EVERYTHING: Rule = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
EVERYWHERE = ""
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, order=True)
class Act:
    """A verb on a resource, as RBAC names them: ``patch`` on ``serving.kserve.io`` ``inferenceservices/status``."""

    verb: str
    group: str
    resource: str


@dataclass(slots=True)
class Account:
    """Somebody with a token. ``used`` is what they did, ``refused`` what they were not allowed to do."""

    name: str
    rules: dict[str, list[Rule]]
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    used: set[Act] = field(default_factory=set)
    refused: set[Act] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rotate()

    def rotate(self) -> None:
        """Another token, also in the file of it, as the kubelet writes a projected one; the last is good no more."""
        self.token = f"token-{next(_numbers)}-{secrets.token_urlsafe(16)}"
        if self.token_file is not None:
            # Not in place: who reads it must see one of the two.
            new = self.token_file.with_suffix(".new")
            new.write_text(self.token)
            new.replace(self.token_file)

    def may(self, act: Act, namespace: str, name: str) -> bool:
        rules = [*self.rules.get(EVERYWHERE, []), *(self.rules.get(namespace, []) if namespace else [])]
        is_allowed = any(_allows(rule, act, name) for rule in rules)
        (self.used if is_allowed else self.refused).add(act)
        return is_allowed


def _allows(rule: Rule, act: Act, name: str) -> bool:
    wanted = (("apiGroups", act.group), ("resources", act.resource), ("verbs", act.verb))
    return all({"*", value} & set(rule[key]) for key, value in wanted) and (
        not rule.get("resourceNames") or name in rule["resourceNames"]
    )


def rules_of(documents: Iterable[Mapping[str, Any]]) -> list[Rule]:
    """The rules of all Roles and ClusterRoles among some manifests."""
    roles = (each for each in documents if each.get("kind") in {"Role", "ClusterRole"})
    return [rule for role in roles for rule in role["rules"]]


def without(rules: Sequence[Rule], act: Act) -> list[Rule]:
    """The same rules, but for one act."""
    kept: list[Rule] = []
    for rule in rules:
        for group, resource in itertools.product(rule["apiGroups"], rule["resources"]):
            verbs = [verb for verb in rule["verbs"] if Act(verb, group, resource) != act]
            if verbs:
                kept.append({**rule, "apiGroups": [group], "resources": [resource], "verbs": verbs})
    return kept


def acts_of(rules: Sequence[Rule]) -> set[Act]:
    """Each single thing that rules allow."""
    return {
        Act(verb, group, resource)
        for rule in rules
        for group, resource, verb in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }
