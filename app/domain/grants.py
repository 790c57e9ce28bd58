"""Grants: a role, for a subject, on a resource; allowed or denied. A denial always wins.

::

    kind: Grant
    name: fraud-leads-approve
    role: approver
    subject: {group: ml-leads}           # or {person: "<issuer>|<subject>"}, {issuer: …, claims: {…}}
    on: {model: "fraud-*", alias: production}   # or experiment, workspace; nothing stands for everything
    effect: allow                        # or deny

Patterns are shell patterns. Those of an allowance are compared as they are written, those of a denial also in
look-alike spellings (``fold``), because databases may hold ``Fraud`` and ``fraud`` to be the same model.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TypeVar

from app.domain.errors import InvalidInput
from app.domain.identity import Claim, Identity
from app.domain.roles import BOUND, DENIED_WITH, NOT_FOR_ONESELF, READS, ROLE_PERMISSIONS, SERVER_WIDE, Permission, Role

_WILD = re.compile(r"[*?\[\]]")
"""What may be part of a wild card. A lone bracket is none, which does no harm where this is asked."""
EVERYBODY = "*"
"""As a group: every principal that was authenticated."""
DEFAULT_WORKSPACE = "default"
LONGEST_PATTERN = 256
LONGEST_NAME = 128
LONGEST_SUBJECT_TEXT = 2048
MOST_STARS = 8
MOST_CLAIMS = 16


def fold(name: str) -> str:
    """The spelling under which names are compared when something is protected: look-alikes of case and width are one.

    Databases with a case- or width-insensitive collation hold ``PRODUCTION`` and ``production`` to be the same alias.
    """
    return unicodedata.normalize("NFKC", name).casefold().strip()


class ResourceKind(StrEnum):
    MODEL = "model"
    """A registered model or prompt, by name; with its versions and aliases."""
    EXPERIMENT = "experiment"
    """An experiment, by name; with its runs, traces, logged models and artifacts."""
    SERVER = "server"
    """Everything at once, and what belongs to nothing smaller."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One thing that somebody wants to do something with."""

    kind: ResourceKind
    name: str = ""
    alias: str | None = None
    workspace: str = DEFAULT_WORKSPACE
    owner: str | None = None
    """The id of the principal who created it, if that is known."""

    def __str__(self) -> str:
        if self.kind is ResourceKind.SERVER:
            return "the server"
        alias = f", alias '{self.alias}'" if self.alias else ""
        where = "" if self.workspace == DEFAULT_WORKSPACE else f" of workspace '{self.workspace}'"
        return f"{self.kind.value} '{self.name}'{alias}{where}"


SERVER = Resource(ResourceKind.SERVER)


def model(name: str, alias: str | None = None, *, workspace: str = DEFAULT_WORKSPACE) -> Resource:
    """A model, or one alias of it."""
    return Resource(ResourceKind.MODEL, name, alias, workspace)


class Effect(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a grant is for; exactly one of ``person``, ``group`` and ``issuer`` is set."""

    person: str | None = None
    group: str | None = None
    issuer: str | None = None
    claims: tuple[tuple[str, str], ...] = ()
    """Claim and pattern; all of them must match."""

    @property
    def is_everybody(self) -> bool:
        return self.group == EVERYBODY

    def includes(self, identity: Identity) -> bool:
        if self.person is not None:
            return identity.id == self.person
        if self.group is not None:
            return self.is_everybody or self.group in identity.groups
        return identity.issuer == self.issuer and all(
            claim_matches(identity.claims.get(name), pattern) for name, pattern in self.claims
        )

    def __str__(self) -> str:
        if self.person is not None:
            return f"person {self.person}"
        if self.group is not None:
            return "everybody" if self.is_everybody else f"group {self.group}"
        return " with ".join(
            [f"issuer {self.issuer}", *([", ".join(f"{n}={p}" for n, p in self.claims)] if self.claims else [])]
        )


def claim_matches(value: Claim | None, pattern: str) -> bool:
    """Whether a claim, or one of a list's texts, matches. A claim that is not there matches nothing."""
    values = (value,) if isinstance(value, str) else value or ()
    return any(fnmatchcase(each, pattern) for each in values)


@dataclass(frozen=True, slots=True)
class Reach:
    """What a grant is on. A pattern that is not set does not limit; without any, it is on everything."""

    model: str | None = None
    alias: str | None = None
    experiment: str | None = None
    workspace: str | None = None

    @property
    def is_everything(self) -> bool:
        return self == EVERYTHING

    def __str__(self) -> str:
        parts = [
            f"{name} {pattern}"
            for name, pattern in (
                ("model", self.model),
                ("alias", self.alias),
                ("experiment", self.experiment),
                ("workspace", self.workspace),
            )
            if pattern is not None
        ]
        return ", ".join(parts) or "everything"


EVERYTHING = Reach()
_REACH = ("model", "experiment", "workspace", "alias")


@dataclass(frozen=True, slots=True)
class Grant:
    """One rule. ``name`` is unique."""

    name: str
    role: Role
    subject: Subject
    on: Reach = EVERYTHING
    effect: Effect = Effect.ALLOW
    written_by: str | None = field(default=None, compare=False)
    """The id of the principal who wrote it last, if one did. Not a part of the document."""

    def counts_for(self, identity: Identity) -> bool:
        """Whether somebody has what it says: not by their own hand what must be given by another."""
        is_own_hand = self.written_by == identity.id and self.role in NOT_FOR_ONESELF and not self.is_denial
        return not is_own_hand and self.subject.includes(identity)

    def covers(self, permission: Permission, resource: Resource) -> bool:
        """Whether this grant speaks of ``permission`` on ``resource``."""
        if not self.speaks_of(permission):
            return False
        if resource.kind is ResourceKind.SERVER and self.is_denial:
            return True  # what is denied on something is not held on everything
        return _reaches(self.on, permission, resource, is_denial=self.is_denial)

    @property
    def is_denial(self) -> bool:
        return self.effect is Effect.DENY

    def speaks_of(self, permission: Permission) -> bool:
        """Whether this grant gives or denies ``permission`` on anything."""
        table = DENIED_WITH if self.is_denial else ROLE_PERMISSIONS
        return permission in table[self.role] and (permission in BOUND or self.on.is_everything)

    def concerns(self, kind: ResourceKind, name: str) -> bool:
        """Whether this grant is on the model or experiment ``name``, or on something of it."""
        is_model = kind is ResourceKind.MODEL
        pattern, other = (self.on.model, self.on.experiment) if is_model else (self.on.experiment, self.on.model)
        if other is not None or (self.on.alias is not None and not is_model):
            return False
        return pattern is None or _matches(name, pattern, is_denial=self.is_denial)

    def __str__(self) -> str:
        verb = "denies" if self.effect is Effect.DENY else "gives"
        return f"grant {self.name} {verb} {self.subject} the role {self.role} on {self.on}"


def _reaches(on: Reach, permission: Permission, resource: Resource, *, is_denial: bool) -> bool:
    """Whether a pattern covers a resource; each pattern that is set must."""
    if on.workspace is not None and (
        resource.kind is ResourceKind.SERVER or not _matches(resource.workspace, on.workspace, is_denial=is_denial)
    ):
        return False
    if on.experiment is not None and not (
        resource.kind is ResourceKind.EXPERIMENT and _matches(resource.name, on.experiment, is_denial=is_denial)
    ):
        return False
    if on.model is None and on.alias is None:
        return True
    if resource.kind is not ResourceKind.MODEL:
        return False
    if on.model is not None and not _matches(resource.name, on.model, is_denial=is_denial):
        return False
    if on.alias is None:
        return True
    if resource.alias is None:
        return permission in READS and not is_denial
    return _matches(resource.alias, on.alias, is_denial=is_denial)


def _matches(name: str, pattern: str, *, is_denial: bool) -> bool:
    return (
        fnmatchcase(fold(name), fold(pattern)) or fnmatchcase(name, pattern)
        if is_denial
        else fnmatchcase(name, pattern)
    )


OWNER_ROLE = Role.CONTRIBUTOR
"""What somebody is on what they created."""


class Access:
    """What grants let one principal do. Made once for a principal, asked for every request.

    Args:
        grants: those whose subject includes the principal.
        owner_id: the principal's id, or none if it cannot own anything.
    """

    __slots__ = ("_allowed", "_denied", "_everywhere", "_leading", "_owner_id", "_somewhere", "grants")

    def __init__(self, grants: Iterable[Grant], *, owner_id: str | None = None) -> None:
        self.grants = tuple(grants)
        self._leading: dict[tuple[Permission, bool], tuple[Reach, ...]] = {}
        self._allowed = _by_permission([grant for grant in self.grants if not grant.is_denial], ROLE_PERMISSIONS)
        self._denied = _by_permission([grant for grant in self.grants if grant.is_denial], DENIED_WITH)
        # Whom nobody lets create anything any more, as when their groups have vanished, has nothing left of it.
        self._owner_id = owner_id if Permission.TRACKING_WRITE in self._allowed else None
        self._everywhere = frozenset(
            permission
            for permission, given in self._allowed.items()
            if permission not in self._denied and any(each.has_everything for each in given)
        )
        owned = ROLE_PERMISSIONS[OWNER_ROLE] if self._owner_id else frozenset()
        self._somewhere = frozenset(
            permission
            for permission in owned.union(self._allowed)
            if not any(each.has_everything for each in self._denied.get(permission, ()))
        )

    @property
    def everywhere(self) -> frozenset[Permission]:
        """The permissions that are given on everything and denied on nothing."""
        return self._everywhere

    @property
    def somewhere(self) -> frozenset[Permission]:
        """The permissions that are given on something: what is left of it, the resource decides."""
        return self._somewhere

    def may(self, permission: Permission, resource: Resource) -> bool:
        """Whether ``permission`` is given on ``resource`` and not denied."""
        if permission in self._everywhere:
            return True
        if resource.kind is ResourceKind.SERVER:
            return False
        if resource.workspace != DEFAULT_WORKSPACE and not self.enters(permission, resource.workspace):
            return False
        for denied in self._denied.get(permission, ()):
            if denied.cover(permission, resource):
                return False
        for allowed in self._allowed.get(permission, ()):
            if allowed.cover(permission, resource):
                return True
        return permission in ROLE_PERMISSIONS[OWNER_ROLE] and self.owns(resource)

    def enters(self, permission: Permission, workspace: str) -> bool:
        """Whether a grant gives ``permission`` somewhere in a workspace.

        Into another than the default one lead a grant that names it, and one on everything; not one on a model of any
        workspace.
        """
        if permission in self._everywhere:
            return True
        is_default = workspace == DEFAULT_WORKSPACE

        def leads(on: Reach) -> bool:
            if on.workspace is None:
                return is_default or on.is_everything
            return fnmatchcase(workspace, on.workspace)

        is_denied = any(
            leads(on) and (on.model, on.alias, on.experiment) == (None, None, None)
            for on in self._reaches_of(permission, is_denial=True)
        )
        return not is_denied and any(leads(on) for on in self._reaches_of(permission, is_denial=False))

    def _reaches_of(self, permission: Permission, *, is_denial: bool) -> tuple[Reach, ...]:
        """What the grants that give or deny a permission are on; looked for once."""
        kept = self._leading.get((permission, is_denial))
        if kept is None:
            speaking = (grant for grant in self.grants if grant.is_denial is is_denial and grant.speaks_of(permission))
            kept = tuple(dict.fromkeys(grant.on for grant in speaking))
            self._leading[permission, is_denial] = kept
        return kept

    def owns(self, resource: Resource) -> bool:
        return self._owner_id is not None and resource.owner == self._owner_id

    def roles_on(self, resource: Resource) -> frozenset[Role]:
        """The roles held on ``resource``: those given there of which nothing is denied there."""
        return frozenset(role for role in Role if self.holds(role, resource))

    def holds(self, role: Role, resource: Resource) -> bool:
        """Whether ``role`` is given on ``resource``, and nothing of what it is for is denied there."""
        meant = ROLE_PERMISSIONS[role] & DENIED_WITH[role]
        given = [grant for grant in self.grants if grant.role is role and not grant.is_denial]
        there = {permission for permission in meant for grant in given if grant.covers(permission, resource)}
        return bool(there) and all(self.may(permission, resource) for permission in there)

    def giving(self, permission: Permission, resource: Resource) -> tuple[Grant, ...]:
        """The grants that give ``permission`` on ``resource``, whether or not another denies it."""
        if resource.workspace != DEFAULT_WORKSPACE and not self.enters(permission, resource.workspace):
            return ()
        return tuple(grant for grant in self.grants if not grant.is_denial and grant.covers(permission, resource))

    def denying(self, permission: Permission, resource: Resource) -> tuple[Grant, ...]:
        """The grants that deny ``permission`` on ``resource``."""
        return tuple(grant for grant in self.grants if grant.is_denial and grant.covers(permission, resource))


def _by_permission(
    grants: Sequence[Grant], table: Mapping[Role, frozenset[Permission]]
) -> Mapping[Permission, tuple[_Reaches, ...]]:
    """Where each permission is given (or denied): once arranged for each role, however many permissions it has."""
    found: dict[Permission, tuple[_Reaches, ...]] = {}
    for role in Role:
        reaches = _Reaches([grant for grant in grants if grant.role is role])
        for permission in table[role]:
            if reaches.has_everything or (permission in BOUND and reaches):
                found[permission] = (*found.get(permission, ()), reaches)
    return found


class _Reaches:
    """What grants of one role and effect are on, so arranged that a name is looked up, not compared with each of a
    thousand patterns.
    """

    __slots__ = ("_by_alias", "_by_experiment", "_by_model", "_by_workspace", "_is_denial", "has_everything")

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._is_denial = bool(grants) and grants[0].is_denial
        reaches = dict.fromkeys(grant.on for grant in grants)
        self.has_everything = EVERYTHING in reaches
        found: dict[str, list[tuple[str, Reach]]] = {name: [] for name in _REACH}
        for reach in reaches:
            for name in _REACH:
                if (pattern := getattr(reach, name)) is not None:
                    found[name].append((pattern, reach))
                    break
        self._by_model = self._arranged(found["model"])
        self._by_experiment = self._arranged(found["experiment"])
        self._by_workspace = self._arranged(found["workspace"])
        self._by_alias = tuple(reach for _, reach in found["alias"])

    def _arranged(self, reaches: Sequence[tuple[str, Reach]]) -> tuple[_Names, _Names]:
        """By the names as they are written, and, of denials, as they are folded."""
        return _Names(reaches), _Names([(fold(name), reach) for name, reach in reaches] if self._is_denial else [])

    def __bool__(self) -> bool:
        return bool(
            self.has_everything
            or self._by_alias
            or any(names for pair in (self._by_model, self._by_experiment, self._by_workspace) for names in pair)
        )

    def cover(self, permission: Permission, resource: Resource) -> bool:
        """Whether one of them covers ``resource``."""
        if self.has_everything:
            return True
        is_model = resource.kind is ResourceKind.MODEL
        named = self._by_model if is_model else self._by_experiment
        return (
            self._covers(named, resource.name, permission, resource)
            or self._covers(self._by_workspace, resource.workspace, permission, resource)
            or (is_model and any(self._reaches(reach, permission, resource) for reach in self._by_alias))
        )

    def _covers(self, names: tuple[_Names, _Names], name: str, permission: Permission, resource: Resource) -> bool:
        written, folded = names
        if written:
            for reach in written.about(name):
                if self._reaches(reach, permission, resource):
                    return True
        if folded:
            for reach in folded.about(fold(name)):
                if self._reaches(reach, permission, resource):
                    return True
        return False

    def _reaches(self, reach: Reach, permission: Permission, resource: Resource) -> bool:
        return _reaches(reach, permission, resource, is_denial=self._is_denial)


class _Names:
    """Patterns by the text that they begin with, or else end with: finds those that a name could match."""

    __slots__ = ("_begun", "_begun_lengths", "_ended", "_ended_lengths", "_exact")

    def __init__(self, reaches: Sequence[tuple[str, Reach]]) -> None:
        exact: dict[str, list[Reach]] = {}
        begun: dict[str, list[Reach]] = {}
        ended: dict[str, list[Reach]] = {}
        for pattern, reach in reaches:
            start, end = _literal_start(pattern), _WILD.split(pattern)[-1]
            if start == pattern:
                exact.setdefault(pattern, []).append(reach)
            elif start or not end:
                begun.setdefault(start, []).append(reach)
            else:
                ended.setdefault(end, []).append(reach)
        self._exact, self._begun, self._ended = exact, begun, ended
        self._begun_lengths, self._ended_lengths = sorted(set(map(len, begun))), sorted(set(map(len, ended)))

    def __bool__(self) -> bool:
        return bool(self._exact or self._begun or self._ended)

    def about(self, name: str) -> Iterator[Reach]:
        yield from self._exact.get(name, ())
        for length in self._begun_lengths:
            yield from self._begun.get(name[:length], ())
        for length in self._ended_lengths:
            yield from self._ended.get(name[-length:], ())


def is_pattern(text: str) -> bool:
    """Whether a text has a wild card in it."""
    return _literal_start(text) != text


def _literal_start(pattern: str) -> str:
    """What every name that matches begins with; the whole pattern if it surely has no wild card."""
    return _WILD.split(pattern, maxsplit=1)[0]


NOTHING = Access(())


@lru_cache(maxsize=64)
def everything_as(roles: frozenset[Role]) -> Access:
    """The access of who holds roles on everything."""
    return Access(Grant(f"role:{role}", role, Subject(group=EVERYBODY)) for role in sorted(roles))


def grants_of_roles(mapping: Mapping[Role, Iterable[str]]) -> tuple[Grant, ...]:
    """The operator's own grants, ``COUNTERSIGN_ROLES``: role to groups, on everything."""
    return tuple(
        Grant(f"settings:{role}:{group}", role, Subject(group=group))
        for role, groups in mapping.items()
        for group in groups
    )


def applying_to(identity: Identity, grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """The grants that count for somebody."""
    return tuple(grant for grant in grants if grant.counts_for(identity))


# The document that people write and that the database keeps.

_FIELDS = {"kind", "name", "role", "subject", "on", "effect"}
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")


def grant_from_document(document: Mapping[str, object]) -> Grant:
    """Read a ``kind: Grant`` document.

    Raises:
        InvalidInput: with the path of the wrong field and what was expected.
    """
    _check_fields("", document, _FIELDS)
    role = _one_of(Role, "role", document.get("role"))
    on = _reach({} if document.get("on") is None else document["on"])
    if role in SERVER_WIDE and not on.is_everything:
        raise InvalidInput("on", f"{role} is a role on everything; leave `on` out")
    return Grant(
        name=check_grant_name(document.get("name")),
        role=role,
        subject=_subject(document.get("subject")),
        on=on,
        effect=_one_of(Effect, "effect", document.get("effect", Effect.ALLOW.value)),
    )


def check_grant_name(name: object) -> str:
    """A grant's name, if it is one.

    Raises:
        InvalidInput: otherwise.
    """
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not _NAME.fullmatch(name):
        raise InvalidInput("name", "expected lower-case letters, digits, `-`, `_` and `.`, at most 128 of them")
    return name


def _check_fields(where: str, document: Mapping[object, object] | Mapping[str, object], known: Collection[str]) -> None:
    # YAML's keys may be of any type, which cannot be sorted among each other.
    if unknown := sorted(str(field) for field in document if field not in known):
        raise InvalidInput(f"{where}{unknown[0][:100]}", f"unknown field; expected one of {', '.join(sorted(known))}")


def grant_document(grant: Grant) -> dict[str, object]:
    """The document that ``grant_from_document`` reads back to the same grant."""
    subject: dict[str, object]
    if grant.subject.person is not None:
        subject = {"person": grant.subject.person}
    elif grant.subject.group is not None:
        subject = {"group": grant.subject.group}
    else:
        subject = {"issuer": grant.subject.issuer, "claims": dict(grant.subject.claims)}
    on = {name: value for name in _REACH if (value := getattr(grant.on, name)) is not None}
    return {
        "kind": "Grant",
        "name": grant.name,
        "role": grant.role.value,
        "subject": subject,
        "on": on,
        "effect": grant.effect.value,
    }


Choice = TypeVar("Choice", bound=StrEnum)


def _one_of(kind: type[Choice], where: str, value: object) -> Choice:
    try:
        return kind(value if isinstance(value, str) else "")
    except ValueError:
        raise InvalidInput(where, f"expected one of {', '.join(item.value for item in kind)}") from None


def _subject(value: object) -> Subject:
    where = "subject"
    if not isinstance(value, Mapping):
        raise InvalidInput(where, "expected an object with person, group or issuer")
    _check_fields(f"{where}.", value, ("person", "group", "issuer", "claims"))
    named = [name for name in ("person", "group", "issuer") if value.get(name) is not None]
    if len(named) != 1:
        raise InvalidInput(where, "expected exactly one of person, group and issuer")
    [kind] = named
    text = _text(f"{where}.{kind}", value[kind], longest=LONGEST_SUBJECT_TEXT)
    claims = value.get("claims")
    if kind != "issuer" and claims is not None:
        raise InvalidInput(f"{where}.claims", "expected only beside an issuer")
    if kind == "person":
        if "|" not in text:
            raise InvalidInput(f"{where}.person", "expected `<issuer>|<subject>`, as `id` in `/control/v1/me`")
        return Subject(person=text)
    if kind == "group":
        if "*" in text and text != EVERYBODY:
            raise InvalidInput(f"{where}.group", "expected one group, or `*` for everybody; groups are no patterns")
        return Subject(group=text)
    return Subject(issuer=text, claims=_claims(f"{where}.claims", claims))


def _claims(where: str, value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping) or not 0 < len(value) <= MOST_CLAIMS:
        raise InvalidInput(
            where, f"expected an object of 1 to {MOST_CLAIMS} claims and patterns: an issuer may serve more than you"
        )
    if not all(isinstance(name, str) and name.isascii() for name in value):
        raise InvalidInput(where, "expected names of claims in ASCII")
    return tuple(
        sorted((_text(where, name, longest=LONGEST_NAME), _pattern(f"{where}.{name}", p)) for name, p in value.items())
    )


def _reach(value: object) -> Reach:
    if not isinstance(value, Mapping):
        raise InvalidInput("on", f"expected an object with {', '.join(_REACH)}")
    _check_fields("on.", value, _REACH)
    named = {name: _pattern(f"on.{name}", item) for name, item in value.items() if item is not None}
    if "experiment" in named and {"model", "alias"} & set(named):
        raise InvalidInput("on", "expected a model or an experiment, not both; write two grants")
    return Reach(**named)


def _pattern(where: str, value: object) -> str:
    pattern = _text(where, value, longest=LONGEST_PATTERN)
    if pattern.count("*") > MOST_STARS:
        raise InvalidInput(where, f"expected at most {MOST_STARS} `*`")
    return pattern


def _text(where: str, value: object, *, longest: int) -> str:
    # Printable: no NUL, which the database does not take, no half of a surrogate pair, nothing that cannot be seen.
    if not isinstance(value, str) or not value.strip() or len(value) > longest or not value.isprintable():
        raise InvalidInput(where, f"expected a printable text of at most {longest} characters")
    return value
