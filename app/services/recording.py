"""What goes into the audit log, in the words of the use cases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.access import Principal
from app.domain.audit import ANONYMOUS, SYSTEM_WORKER, Actor, ChainedEntry, Entry, Verification, Verifier
from app.domain.deployments import Deployment
from app.domain.errors import CountersignError, NotAuthenticated
from app.domain.events import CATALOGUE, Event, EventType
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.problems import problem_of
from app.domain.promotions import AliasKey, Outcome, Promotion
from app.ports import Clock
from app.services.identifiers import new_id

UnitOfWorkFactory = Callable[[], UnitOfWork]


def actor_of(principal: Principal | None) -> Actor:
    return Actor(id=principal.id, name=principal.name) if principal else ANONYMOUS


def topic_of(promotion_id: str) -> str:
    """What to subscribe to, to follow a promotion."""
    return f"promotion:{promotion_id}"


def alias_topic(key: AliasKey) -> str:
    """What to subscribe to, to follow an alias."""
    return f"alias:{key}"


UNGOVERNED_MOVES = "ungoverned"
"""What the topic begins with that says that MLflow is about to move an alias: ``ungoverned:<workspace>/<model>``."""

EVENTS_TOPIC = "events"
"""What to subscribe to, to follow all events."""


def tell(
    work: UnitOfWork,
    action: str,
    promotion: Promotion,
    *,
    actor: Actor = SYSTEM_WORKER,
    **details: str | int | bool | None,
) -> None:
    """Put what happened to a promotion into the audit log, make it an event, and wake whoever follows it.

    Always said: which model, alias and versions, and the state it is in now. ``action`` is in the past tense:
    ``promotion.approved``; it is an event if there is a type of that name, which says of ``details`` what the catalogue
    has a member for.
    """
    said = {
        "model": promotion.model,
        "alias": promotion.alias,
        **({} if promotion.workspace == DEFAULT_WORKSPACE else {"workspace": promotion.workspace}),
        "from_version": promotion.from_version,
        "to_version": promotion.to_version,
        "state": promotion.state.value,
        **({"reason": promotion.state_reason} if promotion.state_reason else {}),
        **details,
    }
    work.record(Entry(promotion.updated_at, actor, action, promotion.id, said))
    if action in _EVENTS:
        emit_of(work, EventType(action), promotion, actor, details)
    work.announce(topic_of(promotion.id))


def emit_of(
    work: UnitOfWork, kind: EventType, promotion: Promotion, actor: Actor, details: Mapping[str, object]
) -> None:
    """Make something that happened to a promotion an event, without an entry of the audit log."""
    known = {
        **details,
        "replaced_by": details.get("by"),
        "targets": list(promotion.policy.targets),
        **said_of(promotion),
        "by": actor.name,
    }
    emit(work, kind, subject=promotion.id, key=promotion.key, at=promotion.updated_at, known=known)


def said_of(promotion: Promotion) -> dict[str, object]:
    """What every event of a promotion says."""
    regretted = {each.authority for each in promotion.standing_decisions if each.outcome is Outcome.REJECT}
    return {
        "promotion": promotion.id,
        "kind": promotion.kind.value,
        "state": promotion.state.value,
        "reason": promotion.state_reason,
        "from_version": promotion.from_version,
        "to_version": promotion.to_version,
        "uri": promotion.uri,
        "digest": promotion.digest,
        "run_id": promotion.run_id,
        "policy": {"name": promotion.policy.name, "revision": promotion.policy.revision},
        "requested_by": promotion.requested_by_name,
        "approved_by": [
            each.principal_name
            for each in promotion.standing_decisions
            if each.outcome is Outcome.APPROVE and each.authority not in regretted
        ],
        "rolls_back": promotion.rolls_back,
    }


def emit(
    work: UnitOfWork, kind: EventType, *, subject: str, key: AliasKey, at: datetime, known: Mapping[str, object]
) -> None:
    """Make something an event, and wake whoever follows all of them.

    It says of ``known``, and of the parts of ``key``, what the catalogue has a member for
    (``app/domain/events/catalogue.py``), and nothing else; what is not known is null. Texts of people are cut, so that
    a message stays below 20 kB.
    """
    known = {**known, "workspace": key.workspace, "model": key.model, "alias": key.alias}
    data = {name: _cut(name, known.get(name)) for name in CATALOGUE[kind].data}
    work.emit(Event(new_id("evn"), kind, subject, at, key, data))
    work.announce(EVENTS_TOPIC)


def emit_deployment(
    work: UnitOfWork,
    kind: EventType,
    deployment: Deployment,
    actor: Actor,
    *,
    at: datetime,
    more: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Make something that happened to a deployment an event. ``more``: what it says beside the deployment."""
    known = {
        **more,
        "action": deployment.action.value,
        "deployment": deployment.id,
        "target": deployment.target,
        "version": deployment.version,
        "generation": deployment.generation,
        "promotion": deployment.promotion_id,
        "uri": deployment.uri,
        "digest": deployment.digest,
        "reason": deployment.reason or None,
        "message": deployment.message or None,
        "by": actor.name,
    }
    key = AliasKey(deployment.workspace, deployment.model, "")
    emit(work, kind, subject=deployment.id, key=key, at=at, known=known)


LONGEST_TEXT = 1000
"""Characters of one text in an event."""
_WHOLE = frozenset({"uri", "source", "link"})
"""What is of no use without its end."""
_EVENTS = frozenset(EventType)


def _cut(name: str, value: object) -> object:
    if not isinstance(value, str) or len(value) <= LONGEST_TEXT or name in _WHOLE:
        return value
    return value[: LONGEST_TEXT - 1] + "\N{HORIZONTAL ELLIPSIS}"


class AuditTrail:
    """Denials, and reading what was recorded."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock

    async def record_denial(
        self,
        principal: Principal | None,
        *,
        what: str,
        error: CountersignError,
        details: Mapping[str, str] | None = None,
    ) -> None:
        """Record that somebody was refused something. ``what`` is the method and path, without the query."""
        entry = Entry(
            at=self._clock.now(),
            actor=actor_of(principal),
            action="access.denied",
            object_id=_writable(what),
            details={"problem": problem_of(error).slug, "message": error.message[:500], **(details or {})},
        )
        async with self._unit_of_work() as work:
            work.record(entry)
            await work.commit()

    async def record_refused_credential(self, *, what: str, address: str, error: CountersignError) -> None:
        """Record that a credential was refused, of which address, and whose it is if that is known; never itself."""
        whose = error.principal_id if isinstance(error, NotAuthenticated) else None
        entry = Entry(
            at=self._clock.now(),
            actor=ANONYMOUS,
            action="authentication.refused",
            object_id=_writable(what),
            details={
                "problem": problem_of(error).slug,
                "message": error.message[:500],
                "address": address[:64],
                **({"principal": whose} if whose else {}),
            },
        )
        async with self._unit_of_work() as work:
            work.record(entry)
            await work.commit()

    async def page(
        self, *, after: int, limit: int, newest_first: bool, object_id: str | None = None
    ) -> Sequence[ChainedEntry]:
        async with self._unit_of_work() as work:
            return await work.audit.page(after=after, limit=limit, newest_first=newest_first, object_id=object_id)

    async def everything(self) -> AsyncIterator[Sequence[ChainedEntry]]:
        """All entries, oldest first, as they are exported.

        Page by page in a transaction each: whoever reads slowly holds no connection. Entries never change.
        """
        after = 0
        while page := await self.page(after=after, limit=1000, newest_first=False):
            yield page
            after += len(page)

    async def verify(self) -> Verification:
        """Walk the whole chain."""
        verifier = Verifier()
        async for page in self.everything():
            verifier.feed(page)
        return verifier.result


def _writable(what: str) -> str:
    """What the database holds: a refusal is written down wherever it was, also at an address with a NUL."""
    return what[:500].replace("\0", "\N{REPLACEMENT CHARACTER}")
