"""Applies the YAML that people review: policies, targets and grants. Applying the same again changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import OPERATOR, Entry
from app.domain.deployments import Target
from app.domain.differences import Change, Document
from app.domain.errors import InvalidInput, WouldLockOut
from app.domain.explaining import administered_by
from app.domain.grants import Grant, grant_document, grant_from_document
from app.domain.policies import Policy
from app.domain.policies.revisions import Retirement, policy_or_retirement
from app.domain.policies.satisfying import Problem
from app.domain.sources import Source, check_texts
from app.ports import Clock
from app.services.grants import record_grant
from app.services.policies import Policies
from app.services.recording import UnitOfWorkFactory

Item = Policy | Retirement | Target | Grant


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
        """Bring policies, targets and grants to what the documents say, all of them or none.

        Args:
            documents: as they were read; a ``Source`` knows where in a file its parts are.
            dry_run: change nothing.
            prune: remove the grants that the documents do not name. Policies are not removed by being left out: what
                is not protected any more is said (``retired: true``).
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

    async def _put_target(self, work: UnitOfWork, target: Target) -> Change:
        present = {item.name: item for item in await work.targets.all()}.get(target.name)
        if present == target:
            return Change("Target", target.name, "unchanged", _target_document(target), _target_document(target))
        now = self._clock.now()
        await work.targets.put(target, at=now)
        work.record(Entry(now, OPERATOR, "target.changed", target.name, {"url": target.url}))
        before = _target_document(present) if present else None
        return Change("Target", target.name, "changed" if present else "created", before, _target_document(target))


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
        raise InvalidInput("", "expected an object with `kind: Policy`, `Target` or `Grant`")
    check_texts(document)
    match document.get("kind"):
        case "Policy":
            return policy_or_retirement(document)
        case "Target":
            return _target(document)
        case "Grant":
            return grant_from_document(document)
    raise InvalidInput("kind", "expected Policy, Target or Grant")


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
