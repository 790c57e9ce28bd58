"""Applies the YAML that people review: policies, targets, endpoints and grants. The same again changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import OPERATOR, Entry
from app.domain.deployments import Target
from app.domain.differences import Change
from app.domain.endpoint_documents import endpoint_from_document
from app.domain.endpoints import Endpoint
from app.domain.errors import InvalidInput, WouldLockOut
from app.domain.explaining import administered_by
from app.domain.grants import Grant, grant_document, grant_from_document
from app.domain.networks import shown
from app.domain.policies import Policy
from app.domain.policies.revisions import Retirement, policy_or_retirement
from app.domain.policies.satisfying import Problem
from app.domain.sources import Source, check_texts
from app.domain.targets import target_document, target_from_document
from app.ports import Clock
from app.services.endpoints import write_endpoint
from app.services.grants import record_grant
from app.services.policies import Policies
from app.services.recording import UnitOfWorkFactory

Item = Policy | Retirement | Target | Endpoint | Grant


class Configuration:
    """See the module.

    Args:
        unit_of_work: our database.
        clock: the present.
        policies: writes those of the documents.
        settings: the operator's own grants (``COUNTERSIGN_ROLES``), as far as they are known here.
    """

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, clock: Clock, policies: Policies, settings: Iterable[Grant] = ()
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._policies = policies
        self._settings = tuple(settings)

    async def apply(
        self,
        documents: Sequence[object],
        *,
        dry_run: bool = False,
        prune: bool = False,
        force: bool = False,
    ) -> list[Change]:
        """Bring policies, targets, endpoints and grants to what the documents say, all of them or none.

        Args:
            documents: as they were read; a ``Source`` knows where in a file its parts are.
            dry_run: change nothing.
            prune: remove the grants that the documents do not name. Nothing else is removed by being left out: what
                is not protected any more is said (``retired: true``), and so is who is not told any more
                (``disabled: true``, or ``countersign endpoints delete``).
            force: even if nobody administers any more.

        Raises:
            InvalidInput: names each document and field that is wrong, its line, and what was expected.
            WouldLockOut: somebody administers now, and nobody would.
        """
        sources = [each if isinstance(each, Source) else Source(each) for each in documents]
        parsed = _parse_all(sources)
        async with self._unit_of_work() as work:
            changes = [await self._put_target(work, item) for item in parsed if isinstance(item, Target)]
            policies = [item for item in parsed if isinstance(item, Policy | Retirement)]
            if policies:
                await work.policies.lock()
                problems = await self._policies.examine(work, policies)
                _refuse(
                    _located(source, index, path, reason)
                    for index, (source, item) in enumerate(zip(sources, parsed, strict=True), start=1)
                    if isinstance(item, Policy | Retirement)
                    for path, reason in problems.get(item.name, ())
                )
                written = await self._policies.write(work, policies, actor=OPERATOR, by=OPERATOR.name)
                changes += [each.change for each in written]
            await _check_gates_can_ask(work, sources, parsed)
            endpoints = [item for item in parsed if isinstance(item, Endpoint)]
            changes += await self._put_endpoints(work, endpoints)
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

    async def _put_endpoints(self, work: UnitOfWork, wanted: Sequence[Endpoint]) -> Sequence[Change]:
        if not wanted:
            return []
        await work.endpoints.lock()
        now = self._clock.now()
        return [
            await write_endpoint(work, endpoint, actor=OPERATOR, by=OPERATOR.name, at=now)
            for endpoint in sorted(wanted, key=lambda each: each.name)
        ]

    async def _put_target(self, work: UnitOfWork, target: Target) -> Change:
        present = {item.name: item for item in await work.targets.all()}.get(target.name)
        if present == target:
            return Change("Target", target.name, "unchanged", target_document(target), target_document(target))
        now = self._clock.now()
        await work.targets.put(target, at=now)
        work.record(Entry(now, OPERATOR, "target.changed", target.name, {"url": shown(target.url)}))
        before = target_document(present) if present else None
        return Change("Target", target.name, "changed" if present else "created", before, target_document(target))


async def _check_gates_can_ask(work: UnitOfWork, sources: Sequence[Source], parsed: Sequence[Item]) -> None:
    """Return if no target is left without `metrics` that gates of policies in force ask; part of `apply`."""
    mute = {
        item.name: (source, index)
        for index, (source, item) in enumerate(zip(sources, parsed, strict=True), start=1)
        if isinstance(item, Target) and item.metrics is None
    }
    if not mute:
        return
    await work.policies.lock()
    _refuse(
        _located(*mute[name], "metrics", f"the gates of policy {policy.name} ask it; take them or the target out first")
        for policy in await work.policies.in_force()
        if policy.rollout.gates
        for name in policy.targets
        if name in mute
    )


def _parse_all(sources: Sequence[Source]) -> list[Item]:
    parsed: list[Item] = []
    problems: list[Problem] = []
    seen: set[tuple[str, str]] = set()
    for index, source in enumerate(sources, start=1):
        try:
            item = _parse(source.document)
        except InvalidInput as error:
            problems += [_located(source, index, path, expected) for path, expected in error.problems]
            continue
        kind = "Policy" if isinstance(item, Retirement) else type(item).__name__
        if (kind, item.name) in seen:
            problems.append(_located(source, index, "name", f"expected each {kind.lower()} once in all files"))
        seen.add((kind, item.name))
        parsed.append(item)
    _refuse(problems)
    return parsed


def _located(source: Source, index: int, path: str, expected: str) -> Problem:
    """The line, if there is a file; else which document it is, as it counts and calls itself."""
    if source.file:
        return source.where(path), f"{path}: {expected}" if path else expected
    name = source.document.get("name", "unnamed") if isinstance(source.document, Mapping) else None
    document = f"document {index}" + ("" if name is None else f" ({name!s:.100})")
    return f"{document}, {path}" if path else document, expected


def _refuse(problems: Iterable[Problem]) -> None:
    if found := list(problems):
        raise InvalidInput.of_all(found)


def _parse(document: object) -> Item:
    if not isinstance(document, Mapping):
        raise InvalidInput("", "expected an object with `kind: Policy`, `Target`, `Endpoint` or `Grant`")
    check_texts(document)
    match document.get("kind"):
        case "Policy":
            return policy_or_retirement(document)
        case "Target":
            return target_from_document(document)
        case "Endpoint":
            return endpoint_from_document(document)
        case "Grant":
            return grant_from_document(document)
    raise InvalidInput("kind", "expected Policy, Target, Endpoint or Grant")
