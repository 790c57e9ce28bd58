"""Applies the YAML that people review: policies, targets and grants. Applying the same again changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may
from app.domain.audit import OPERATOR, Entry
from app.domain.deployments import Target
from app.domain.errors import InvalidInput, WouldLockOut
from app.domain.explaining import administered_by
from app.domain.grants import Grant, grant_document, grant_from_document, is_pattern
from app.domain.policies import DEFAULT_POLICY, Policy, document_of, policy_from_document
from app.ports import Clock
from app.services.grants import record_grant
from app.services.recording import UnitOfWorkFactory
from app.services.resources import models_for

Document = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Change:
    """What applying a document did, or would do: the document that was, and the one that is."""

    kind: str
    name: str
    action: str
    before: Document | None = None
    after: Document | None = None

    @property
    def changes(self) -> bool:
        """Whether there is a difference at all."""
        return self.before != self.after

    def __str__(self) -> str:
        return f"{self.kind.lower()} {self.name}: {self.action}"


class Configuration:
    """See the module.

    Args:
        unit_of_work: our database.
        clock: the present.
        settings: the operator's own grants (``COUNTERSIGN_ROLES``), as far as they are known here.
    """

    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock, settings: Iterable[Grant] = ()) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._settings = tuple(settings)

    async def ensure_default_policy(self) -> None:
        """Protect a fresh installation. Does nothing when there is any policy."""
        async with self._unit_of_work() as work:
            if not await work.policies.in_force():
                await self._put_policy(work, DEFAULT_POLICY)
                await work.commit()

    async def policies(self, principal: Principal) -> Sequence[Policy]:
        """Those in force; a policy of one model alone is for who may read that model."""
        async with self._unit_of_work() as work:
            policies = await work.policies.in_force()
            resources = await models_for(work, principal, [(policy.models, None) for policy in policies])
        return [
            policy
            for policy, resource in zip(policies, resources, strict=True)
            if is_pattern(policy.models) or may(principal, Permission.POLICIES_READ, resource)
        ]

    async def apply(
        self,
        documents: Sequence[object],
        *,
        dry_run: bool = False,
        prune: bool = False,
        force: bool = False,
    ) -> list[Change]:
        """Bring policies, targets and grants to what the documents say, all of them or none.

        Args:
            documents: as they were read.
            dry_run: change nothing.
            prune: remove the grants that the documents do not name.
            force: even if nobody administers any more.

        Raises:
            InvalidInput: names the document and the field, and what was expected.
            WouldLockOut: somebody administers now, and nobody would.
        """
        parsed = [_parse(index, document) for index, document in enumerate(documents, start=1)]
        _check_named_once(parsed)
        async with self._unit_of_work() as work:
            changes = [await self._put_target(work, item) for item in parsed if isinstance(item, Target)]
            for policy in (item for item in parsed if isinstance(item, Policy)):
                if missing := await work.targets.missing(policy.targets):
                    raise InvalidInput(f"policy {policy.name}: targets", f"there is no target {', '.join(missing)}")
                changes.append(await self._put_policy(work, policy))
            grants = [item for item in parsed if isinstance(item, Grant)]
            changes += await self._put_grants(work, grants, prune=prune, force=force)
            if not dry_run:
                await work.commit()
        return changes

    async def _put_grants(
        self, work: UnitOfWork, wanted: Sequence[Grant], *, prune: bool, force: bool
    ) -> Sequence[Change]:
        if not wanted and not prune:
            return []
        await work.grants.lock()
        now = self._clock.now()
        present = {stored.grant.name: stored.grant for stored in await work.grants.all()}
        after = {**({} if prune else present), **{grant.name: grant for grant in wanted}}
        self._check_somebody_administers(present.values(), after.values(), force=force)
        changes = []
        for grant in wanted:
            before = present.get(grant.name)
            if before != grant:
                await work.grants.put(grant, at=now, by=OPERATOR.name)
                record_grant(work, OPERATOR, before, grant, at=now)
            action = "unchanged" if before == grant else "changed" if before else "created"
            old = grant_document(before) if before else None
            changes.append(Change("Grant", grant.name, action, old, grant_document(grant)))
        for name in sorted(present.keys() - after.keys()):
            await work.grants.remove(name)
            record_grant(work, OPERATOR, present[name], None, at=now)
            changes.append(Change("Grant", name, "removed", grant_document(present[name]), None))
        return changes

    def _check_somebody_administers(self, before: Iterable[Grant], after: Iterable[Grant], *, force: bool) -> None:
        if force or not administered_by([*self._settings, *before]) or administered_by([*self._settings, *after]):
            return
        raise WouldLockOut(
            "Somebody administers now, and after this nobody would. If COUNTERSIGN_ROLES names an administrator where "
            "the gateway runs, set it here too; or say --force."
        )

    async def _put_policy(self, work: UnitOfWork, policy: Policy) -> Change:
        present = {item.name: item for item in await work.policies.in_force()}.get(policy.name)
        if present and replace(present, revision=policy.revision) == policy:
            document = document_of(present)
            return Change("Policy", policy.name, f"unchanged (revision {present.revision})", document, document)
        now = self._clock.now()
        added = await work.policies.add(policy, at=now, by=OPERATOR.name)
        work.record(
            Entry(now, OPERATOR, "policy.revised", f"{added.name}/{added.revision}", {"document": document_of(added)})
        )
        action = f"revision {added.revision}" if present else "created"
        return Change("Policy", added.name, action, document_of(present) if present else None, document_of(added))

    async def _put_target(self, work: UnitOfWork, target: Target) -> Change:
        present = {item.name: item for item in await work.targets.all()}.get(target.name)
        if present == target:
            return Change("Target", target.name, "unchanged", _target_document(target), _target_document(target))
        now = self._clock.now()
        await work.targets.put(target, at=now)
        work.record(Entry(now, OPERATOR, "target.changed", target.name, {"url": target.url}))
        before = _target_document(present) if present else None
        return Change("Target", target.name, "changed" if present else "created", before, _target_document(target))


def _check_named_once(parsed: Iterable[Policy | Target | Grant]) -> None:
    seen: set[tuple[str, str]] = set()
    for item in parsed:
        if (key := (type(item).__name__, item.name)) in seen:
            raise InvalidInput(f"{key[0].lower()} {item.name}", "expected each name once in all files")
        seen.add(key)


def _parse(index: int, document: object) -> Policy | Target | Grant:
    if not isinstance(document, Mapping):
        raise InvalidInput(f"document {index}", "expected an object with `kind: Policy`, `Target` or `Grant`")
    try:
        match document.get("kind"):
            case "Policy":
                return policy_from_document(document, revision=0)
            case "Target":
                return _target(document)
            case "Grant":
                return grant_from_document(document)
    except InvalidInput as error:
        where = f"document {index} ({document.get('name', 'unnamed')}), {error.details['field']}"
        raise InvalidInput(where, error.message.partition(": ")[2]) from None
    raise InvalidInput(f"document {index}: kind", "expected Policy, Target or Grant")


def _target(document: Mapping[str, object]) -> Target:
    known = {"kind", "name", "url", "secretFile", "secretEnv", "callbackSecretFile", "callbackSecretEnv"}
    known |= {"allowPrivateNetwork", "deadlineSeconds"}
    if unknown := sorted(map(str, set(document) - known)):
        raise InvalidInput(unknown[0], f"unknown field; expected one of {', '.join(sorted(known))}")
    name, url = document.get("name"), document.get("url")
    if not isinstance(name, str) or not name.strip() or "/" in name:
        raise InvalidInput("name", "expected a text without `/`")
    if not isinstance(url, str) or urlsplit(url).scheme not in {"http", "https"} or urlsplit(url).username:
        raise InvalidInput("url", "expected an http:// or https:// URL without credentials")
    private = document.get("allowPrivateNetwork", False)
    if not isinstance(private, bool):
        raise InvalidInput("allowPrivateNetwork", "expected true or false")
    deadline = document.get("deadlineSeconds", 900)
    if not isinstance(deadline, int) or isinstance(deadline, bool) or not 1 <= deadline <= 86_400:
        raise InvalidInput("deadlineSeconds", "expected a whole number from 1 to 86400")
    return Target(
        name=name,
        url=url,
        secret=_secret(document, "secret"),
        callback_secret=_secret(document, "callbackSecret"),
        allow_private_network=private,
        deadline_s=deadline,
    )


def _target_document(target: Target) -> Document:
    """What was written to make it. The secrets themselves are nowhere in it."""
    named = {}
    for field, reference in (("secret", target.secret), ("callbackSecret", target.callback_secret)):
        kind, _, value = reference.partition(":")
        named[f"{field}{kind.capitalize()}"] = value
    return {
        "kind": "Target",
        "name": target.name,
        "url": target.url,
        **named,
        "allowPrivateNetwork": target.allow_private_network,
        "deadlineSeconds": target.deadline_s,
    }


def _secret(document: Mapping[str, object], field: str) -> str:
    given = {kind: document.get(f"{field}{kind}") for kind in ("File", "Env")}
    named = [(kind, value) for kind, value in given.items() if isinstance(value, str) and value]
    if len(named) != 1:
        raise InvalidInput(f"{field}File", f"expected {field}File or {field}Env, exactly one; the secret itself never")
    kind, value = named[0]
    return f"{kind.lower()}:{value}"
