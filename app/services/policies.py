"""Policies: written by who administers them or by the operator, checked as a whole, kept revision by revision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Permission, Principal, may, require
from app.domain.audit import OPERATOR, Actor, Entry
from app.domain.differences import Change
from app.domain.errors import InvalidInput, NotFound, PreconditionFailed
from app.domain.events import OF_NO_MODEL, EventType
from app.domain.gate_queries import sample_of
from app.domain.grants import DEFAULT_WORKSPACE, is_pattern
from app.domain.names import check_model, check_workspace, no_model
from app.domain.policies import DEFAULT_POLICY, CheckKind, Choice, Policy, choose
from app.domain.policies.documents import short_document_of
from app.domain.policies.revisions import Retirement, Revision, policy_or_retirement
from app.domain.policies.satisfying import (
    Problem,
    check_policy_name,
    contradictions,
    entanglements,
    never_opens,
)
from app.domain.sources import check_texts
from app.ports import Clock, Expressions, QueryLanguage, WindowCalendar
from app.services.recording import UnitOfWorkFactory, actor_of, emit
from app.services.resources import model_for, models_for


class PolicyOutcome(StrEnum):
    """What became of a policy that was written."""

    CREATED = "created"
    REVISED = "revised"
    UNCHANGED = "unchanged"
    RETIRED = "retired"


@dataclass(frozen=True, slots=True)
class Written:
    """A revision that is in force now, or would be, and what differs from the one before."""

    outcome: PolicyOutcome
    revision: Revision
    change: Change

    @property
    def is_new(self) -> bool:
        return self.outcome is PolicyOutcome.CREATED


@dataclass(frozen=True, slots=True)
class RevisionPage:
    """Some revisions, and the number behind which there may be more."""

    items: Sequence[Revision]
    last: int | None


class Policies:
    """See the module.

    Args:
        unit_of_work: our database.
        clock: the present.
        expressions: knows what an expression may look at.
        queries: can read a gate's query.
        calendar: knows when windows occur.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        clock: Clock,
        *,
        expressions: Expressions,
        queries: QueryLanguage,
        calendar: WindowCalendar,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._expressions = expressions
        self._queries = queries
        self._calendar = calendar

    async def ensure_default(self) -> None:
        """Protect a fresh installation. Does nothing when there ever was a policy: who retires it means it."""
        async with self._unit_of_work() as work:
            await work.policies.lock()
            if not await work.policies.any_ever():
                await self.write(work, [DEFAULT_POLICY], actor=OPERATOR, by=OPERATOR.name)
                await work.commit()

    # Reading.

    async def listed(self, principal: Principal) -> Sequence[Revision]:
        """Those in force, by name; a policy of one model alone is for who may read that model."""
        async with self._unit_of_work() as work:
            newest = [revision for revision in await work.policies.newest() if not revision.is_retired]
            return await _readable(work, principal, newest)

    async def newest(self) -> Sequence[Revision]:
        """The newest revision of each policy, retired ones included, by name: for the operator."""
        async with self._unit_of_work() as work:
            return await work.policies.newest()

    async def get(self, principal: Principal | None, name: str) -> Revision:
        """The revision in force. ``principal`` is none for the operator.

        Raises:
            NotFound: there is none, it is retired, or the principal may not know of it.
        """
        found = await self.revisions(principal, name, limit=1)
        if found.items[0].is_retired:
            raise _no_such_policy(name)
        return found.items[0]

    async def revisions(
        self, principal: Principal | None, name: str, *, before: int | None = None, limit: int
    ) -> RevisionPage:
        """Every revision, newest first; those before a number, if there is one.

        Raises:
            NotFound: there never was one, or the principal may not know of the newest.
        """
        check_policy_name(name)
        async with self._unit_of_work() as work:
            newest = await work.policies.revisions(name)
            if not await _readable(work, principal, newest):
                raise _no_such_policy(name)
            found = await work.policies.revisions(name, before=before, limit=limit)
            last = found[-1].number if len(found) == limit else None
            return RevisionPage(await _readable(work, principal, found), last)

    async def revision(self, principal: Principal | None, name: str, number: int) -> Revision:
        """One revision. Raises ``NotFound`` as ``revisions`` does."""
        found = await self.revisions(principal, name, before=number + 1, limit=1)
        if not found.items or found.items[0].number != number:
            raise NotFound(f"There is no revision {number} of policy {name}.", policy=name, revision=number)
        return found.items[0]

    async def chosen(
        self,
        principal: Principal,
        name: str,
        alias: str,
        *,
        workspace: str = DEFAULT_WORKSPACE,
        tags: Mapping[str, str] | None = None,
    ) -> Choice:
        """Which policy protects an alias, and why. See ``choose``.

        Raises:
            NotFound: the principal may not read the model.
        """
        check_model(name)
        check_workspace(workspace)
        async with self._unit_of_work() as work:
            resource = await model_for(work, principal, name, workspace=workspace)
            if not may(principal, Permission.POLICIES_READ, resource):
                raise no_model(name, workspace)
            return choose(await work.policies.in_force(), name, alias, workspace=workspace, tags=tags)

    # Writing.

    async def put(
        self,
        principal: Principal,
        name: str,
        document: Mapping[str, object],
        *,
        dry_run: bool = False,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> Written:
        """Write the next revision of a policy, or its first; nothing if it says so already.

        Args:
            principal: an administrator.
            name: the policy's; a document that names another one is refused.
            document: ``kind: Policy``.
            dry_run: change nothing, and say what would be.
            if_match: the ETag that it must have now.
            if_none_match: whether there must be none of this name.

        Raises:
            InvalidInput: names each wrong field of the document, and what was expected.
            PreconditionFailed: it was changed meanwhile.
        """
        require(principal, Permission.POLICIES_ADMINISTER)
        check_policy_name(name)
        check_texts(document)
        if document.get("kind", "Policy") != "Policy" or document.get("name", name) != name:
            raise InvalidInput("name", "expected `kind: Policy` and the name in the address, or none")
        wanted = policy_or_retirement({**document, "name": name})
        if isinstance(wanted, Retirement):
            raise InvalidInput("retired", "a policy is retired with DELETE")
        return await self._change(principal, wanted, dry_run=dry_run, if_match=if_match, if_none_match=if_none_match)

    async def retire(self, principal: Principal, name: str, *, if_match: str | None = None) -> None:
        """End a policy: its aliases are those of the next best policy, or not protected any more.

        Promotions that were made under it stay bound to the revision they were made under.

        Raises:
            NotFound: there is none.
            PreconditionFailed: it was changed meanwhile.
        """
        require(principal, Permission.POLICIES_ADMINISTER)
        check_policy_name(name)
        await self._change(principal, Retirement(name), if_match=if_match)

    async def _change(
        self,
        principal: Principal,
        wanted: Policy | Retirement,
        *,
        dry_run: bool = False,
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> Written:
        async with self._unit_of_work() as work:
            await work.policies.lock()
            newest = await work.policies.revisions(wanted.name)
            present = newest[0] if newest and not newest[0].is_retired else None
            if present is None and isinstance(wanted, Retirement):
                raise _no_such_policy(wanted.name)
            _check_precondition(wanted.name, present, if_match=if_match, if_none_match=if_none_match)
            if problems := (await self.examine(work, [wanted])).get(wanted.name):
                raise InvalidInput.of_all(problems)
            [written] = await self.write(work, [wanted], actor=actor_of(principal), by=principal.id)
            if not dry_run:
                await work.commit()
        return written

    async def examine(self, work: UnitOfWork, wanted: Iterable[Policy | Retirement]) -> Mapping[str, Sequence[Problem]]:
        """What is wrong with policies that are to be written together, by their names.

        Those that say what is in force already are not looked at: a window that is over is no reason to refuse a file
        that changes nothing.
        """
        known = {revision.name: revision for revision in await work.policies.newest()}
        after = {name: revision.policy for name, revision in known.items() if not revision.is_retired}
        problems: dict[str, list[Problem]] = {}
        changed = []
        for each in wanted:
            if isinstance(each, Retirement):
                after.pop(each.name, None)
                if each.name not in known:
                    problems[each.name] = [("name", "there never was such a policy, so that it cannot be retired")]
            elif not _is_same(after.get(each.name), each):
                after[each.name] = each
                changed.append(each)
        for policy in changed:
            problems[policy.name] = [
                *contradictions(policy),
                *self._windows(policy),
                *self._expressions_of(policy),
                *self._queries_of(policy),
                *await _targets_of(work, policy),
            ]
        for name, found in entanglements(after.values(), {policy.name for policy in changed}).items():
            problems[name] += found
        return {name: found for name, found in problems.items() if found}

    def _windows(self, policy: Policy) -> Sequence[Problem]:
        problems: list[Problem] = []
        for index, window in enumerate(policy.windows):
            try:
                self._calendar.check(window, f"windows[{index}]")
            except InvalidInput as error:
                problems += error.problems
        return problems or never_opens(policy, self._clock.now(), self._calendar)

    def _expressions_of(self, policy: Policy) -> Sequence[Problem]:
        problems: list[Problem] = []
        for index, check in enumerate(policy.checks):
            if check.kind is not CheckKind.EXPRESSION:
                continue
            where = f"checks[{index}].expression"
            try:
                reads = self._expressions.check(check.expression, field=where)
                never = [
                    (where, f"nobody could satisfy it: {clause.text} is never so, whatever the facts")
                    for clause in self._expressions.evaluate(check.expression, {}).clauses
                    if not clause.values and not clause.holds
                ]
                if not reads and not never:
                    never = [(where, "it looks at no fact, so that it says the same of every version")]
                problems += never
            except InvalidInput as error:
                problems += error.problems
        return problems

    def _queries_of(self, policy: Policy) -> Sequence[Problem]:
        problems: list[Problem] = []
        for index, gate in enumerate(policy.rollout.gates):
            try:
                self._queries.check(sample_of(gate.query), field=f"rollout.gates[{index}].query")
            except InvalidInput as error:
                problems += error.problems
        return problems

    async def write(
        self, work: UnitOfWork, wanted: Iterable[Policy | Retirement], *, actor: Actor, by: str
    ) -> Sequence[Written]:
        """Write what differs from what is in force. The caller has examined it, holds the lock, and commits."""
        written = []
        for each in wanted:
            newest = await work.policies.revisions(each.name)
            present = newest[0] if newest else None
            if isinstance(each, Retirement):
                assert present is not None  # examined
                written.append(await self._end(work, present, actor=actor, by=by))
            else:
                written.append(await self._write(work, present, each, actor=actor, by=by))
        work.forget_resolutions()
        return written

    async def _write(
        self, work: UnitOfWork, present: Revision | None, policy: Policy, *, actor: Actor, by: str
    ) -> Written:
        before = present.policy if present and not present.is_retired else None
        old, new = short_document_of(before) if before else None, short_document_of(policy)
        if present and _is_same(before, policy):
            change = Change("Policy", policy.name, f"unchanged (revision {present.number})", new, new)
            return Written(PolicyOutcome.UNCHANGED, present, change)
        now = self._clock.now()
        added = await work.policies.add(policy, at=now, by=by)
        work.record(Entry(now, actor, "policy.revised", _object_id(added), {"document": added.document}))
        action = f"revision {added.number}" if before else "created"
        outcome = PolicyOutcome.REVISED if before else PolicyOutcome.CREATED
        _tell(work, added, outcome, actor)
        return Written(outcome, added, Change("Policy", policy.name, action, old, new))

    async def _end(self, work: UnitOfWork, present: Revision, *, actor: Actor, by: str) -> Written:
        if present.is_retired:
            change = Change("Policy", present.name, f"retired already (revision {present.number})")
            return Written(PolicyOutcome.UNCHANGED, present, change)
        now, policy = self._clock.now(), present.policy
        ended = await work.policies.retire(policy, at=now, by=by)
        work.record(Entry(now, actor, "policy.retired", _object_id(ended), {"document": ended.document}))
        _tell(work, ended, PolicyOutcome.RETIRED, actor)
        return Written(
            PolicyOutcome.RETIRED, ended, Change("Policy", policy.name, "retired", short_document_of(policy))
        )


def _tell(work: UnitOfWork, revision: Revision, outcome: PolicyOutcome, actor: Actor) -> None:
    known = {"policy": revision.name, "revision": revision.number, "outcome": outcome.value, "by": actor.name}
    emit(work, EventType.POLICY_CHANGED, subject=revision.name, key=OF_NO_MODEL, at=revision.created_at, known=known)


def _is_same(before: Policy | None, after: Policy) -> bool:
    return before is not None and replace(before, revision=after.revision) == after


def _object_id(revision: Revision) -> str:
    return f"{revision.name}/{revision.number}"


async def _readable(work: UnitOfWork, principal: Principal | None, revisions: Sequence[Revision]) -> Sequence[Revision]:
    """A revision that is of one model alone is for who may read that model; the operator reads all."""
    if principal is None:
        return revisions
    named = [
        (DEFAULT_WORKSPACE if is_pattern(revision.workspaces) else revision.workspaces, revision.models)
        for revision in revisions
    ]
    resources = await models_for(work, principal, named)
    return [
        revision
        for revision, resource in zip(revisions, resources, strict=True)
        if is_pattern(revision.models) or may(principal, Permission.POLICIES_READ, resource)
    ]


def _check_precondition(name: str, present: Revision | None, *, if_match: str | None, if_none_match: bool) -> None:
    """RFC 9110 sections 13.1.1 and 13.1.2."""
    if if_none_match and present is not None:
        raise PreconditionFailed(f"There is a policy {name} already.", policy=name)
    if if_match is None:
        return
    wanted = {each.strip() for each in if_match.split(",")}
    if present is None or (present.etag not in wanted and wanted != {"*"}):
        raise PreconditionFailed(f"Policy {name} was changed or retired meanwhile; read it again.", policy=name)


async def _targets_of(work: UnitOfWork, policy: Policy) -> Sequence[Problem]:
    """Targets that there are not, or that have nobody whom the gates could ask."""
    if not policy.targets:
        return []
    known = {target.name: target for target in await work.targets.all()}
    problems: list[Problem] = []
    for index, name in enumerate(policy.targets):
        if name not in known:
            problems.append((f"targets[{index}]", f"there is no target {name}"))
        elif policy.rollout.gates and known[name].metrics is None:
            reason = f"target {name} has no `metrics`, so that the gates could never measure anything there"
            problems.append((f"targets[{index}]", reason))
    return problems


def _no_such_policy(name: str) -> NotFound:
    return NotFound(f"There is no policy {name}.", policy=name)
