"""Promotions and their decisions: read, listed by cursor, and written on condition that nobody else was faster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import product

from sqlalchemy import (
    ColumnElement,
    Row,
    and_,
    bindparam,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.ordered import Keys, Ordered, columns_of
from app.adapters.postgres.tables import decisions, policy_revisions, promoted_aliases, promotions
from app.domain.errors import Conflict
from app.domain.grants import fold
from app.domain.policies import policy_from_document
from app.domain.promotions import (
    GOOD,
    IN_FLIGHT,
    TAKES_NEWER,
    UNSETTLED,
    AliasKey,
    Decision,
    Filter,
    Kind,
    Outcome,
    Promotion,
    State,
    no_promotion,
)

_WITH_POLICY = select(promotions, policy_revisions.c.document).join(
    policy_revisions,
    and_(
        policy_revisions.c.name == promotions.c.policy_name,
        policy_revisions.c.revision == promotions.c.policy_revision,
    ),
)

_BY_TIME = Ordered(promotions.c.created_at, promotions.c.id, newest_first=True)


class Promotions:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock_alias(self, *keys: AliasKey) -> None:
        """Let no other transaction open or begin a promotion of this alias until this one ends; several in order."""
        await self._connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(key, 0)) FROM unnest(CAST(:keys AS text[])) AS key"),
            {"keys": [f"promotion:{key}" for key in sorted(keys)]},
        )

    async def lock_applying(self, promotion_id: str) -> None:
        """Let no other transaction apply this promotion until this one ends. Reading and writing it goes on."""
        await self._connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"applying:{promotion_id}"}
        )

    async def get(self, promotion_id: str, *, for_update: bool = False) -> Promotion:
        """Raises ``NotFound``. ``for_update`` makes others wait who would change it."""
        query = _WITH_POLICY.where(promotions.c.id == promotion_id)
        if for_update:
            query = query.with_for_update(of=promotions)
        found = await self._read(query)
        if not found:
            raise no_promotion(promotion_id)
        return found[0]

    async def find(self, promotion_id: str) -> Promotion | None:
        return next(iter(await self._read(_WITH_POLICY.where(promotions.c.id == promotion_id))), None)

    async def find_open(self, key: AliasKey, version: str) -> Promotion | None:
        """The promotion of this very version that is not settled yet; the one that is about to take another's place."""
        query = _WITH_POLICY.where(
            *_of(key),
            promotions.c.to_version == version,
            is_in(UNSETTLED),
        ).order_by(promotions.c.created_at.desc())
        return next(iter(await self._read(query)), None)

    async def waiting(self, key: AliasKey) -> list[Promotion]:
        """Those that a newer promotion of the alias replaces, locked."""
        query = _WITH_POLICY.where(*_of(key), is_in(TAKES_NEWER)).with_for_update(of=promotions)
        return await self._read(query)

    async def waiting_for_version(self, workspace: str, model: str, version: str) -> list[Promotion]:
        """Those of one version, to whatever alias, that wait for something."""
        query = _WITH_POLICY.where(
            promotions.c.workspace == workspace,
            promotions.c.model == model,
            promotions.c.to_version == version,
            is_in(TAKES_NEWER),
        )
        return await self._read(query)

    async def in_state(self, key: AliasKey, state: State) -> list[Promotion]:
        """Those of an alias in one state, locked."""
        query = _WITH_POLICY.where(*_of(key), is_in([state])).with_for_update(of=promotions)
        return await self._read(query)

    async def being_applied(self, workspace: str, model: str) -> list[Promotion]:
        """Those of any alias of a model whose alias is being moved."""
        query = _WITH_POLICY.where(
            promotions.c.workspace == workspace,
            promotions.c.model == model,
            is_in([State.APPLYING]),
        )
        return await self._read(query)

    async def ahead_of(self, promotion: Promotion) -> str | None:
        """The id of another promotion of the same alias that is being applied."""
        found = await self._connection.scalar(
            select(promotions.c.id).where(*_of(promotion.key), is_in([State.APPLYING]), promotions.c.id != promotion.id)
        )
        return None if found is None else str(found)

    async def in_flight(self, key: AliasKey) -> str | None:
        """The id of the one promotion of an alias that is being applied or rolled out; nobody waits for this."""
        found = await self._connection.scalar(select(promotions.c.id).where(*_of(key), is_in(IN_FLIGHT)))
        return None if found is None else str(found)

    async def last_good_before(self, holder: Promotion) -> Promotion | None:
        """The promotion whose version held the alias last before the present holder's, and was good."""
        query = (
            _WITH_POLICY.where(
                *_of(holder.key),
                promotions.c.to_version != holder.to_version,
                is_in(GOOD),
                promotions.c.applied_at < holder.applied_at,
            )
            .order_by(promotions.c.applied_at.desc())
            .limit(1)
        )
        return next(iter(await self._read(query)), None)

    async def look_again(self, promotion_id: str, at: datetime | None) -> None:
        """Write down when it is looked at next. That is no change that anybody follows, so its revision stays."""
        await self._connection.execute(update(promotions).where(promotions.c.id == promotion_id).values(due_at=at))

    async def keep_replaced(self, promotion_id: str, values: Sequence[str | None]) -> None:
        """Write down, once, what the things that move with the alias are before they do."""
        await self._connection.execute(
            update(promotions)
            .where(promotions.c.id == promotion_id, promotions.c.replaced.is_(None))
            .values(replaced=list(values))
        )

    async def replaced(self, promotion_id: str) -> Sequence[str | None] | None:
        """What ``keep_replaced`` wrote down; none if it never did, and so nothing was moved."""
        found = await self._connection.scalar(select(promotions.c.replaced).where(promotions.c.id == promotion_id))
        return None if found is None else [*found]

    async def due(self, now: datetime, *, limit: int = 500) -> list[str]:
        """The ids of those that wait and are to be looked at by now, those first that have waited longest."""
        query = (
            select(promotions.c.id)
            .where(
                is_in(TAKES_NEWER),
                promotions.c.due_at <= now,
            )
            .order_by(promotions.c.due_at)
            .limit(limit)
        )
        return [str(each) for each in await self._connection.scalars(query)]

    async def unsettled(
        self, states: Iterable[State], *, untouched_since: datetime, limit: int = 500
    ) -> list[Promotion]:
        """Those in one of ``states`` that nothing has changed since a time, oldest first."""
        query = (
            _WITH_POLICY.where(is_in(states), promotions.c.updated_at < untouched_since)
            .order_by(promotions.c.updated_at)
            .limit(limit)
        )
        return await self._read(query)

    async def page(
        self, wanted: Filter, *, before: tuple[datetime, str] | None = None, limit: int = 50
    ) -> Sequence[Promotion]:
        """Newest first, up to ``limit``, those before the key (created_at, id) of the last one seen."""
        conditions = _conditions(wanted)
        if before:
            conditions.append(tuple_(promotions.c.created_at, promotions.c.id) < tuple_(*before))
        states = _states(wanted)
        if wanted.among is not None:
            page = _BY_TIME.page_among(_keys(wanted.among, states), conditions, limit)
        elif states is not None:
            page = _BY_TIME.page_of_each({"state": [state.value for state in states]}, conditions, limit)
        else:
            page = _BY_TIME.page(conditions, limit)
        return await self._read(_BY_TIME.sort(_WITH_POLICY.where(promotions.c.id.in_(page))))

    async def aliases(self, wanted: Filter) -> Sequence[AliasKey]:
        """The aliases of which there are promotions."""
        query = select(promoted_aliases)
        if wanted.model is not None:
            query = query.where(promoted_aliases.c.model == wanted.model)
        if wanted.alias is not None:
            query = query.where(promoted_aliases.c.alias == wanted.alias)
        if wanted.workspace is not None:
            query = query.where(promoted_aliases.c.workspace == wanted.workspace)
        return [AliasKey(row.workspace, row.model, row.alias) for row in await self._connection.execute(query)]

    async def history(self, key: AliasKey, *, until: datetime | None = None, limit: int = 100) -> list[Promotion]:
        """The promotions that moved an alias, newest first, those up to ``until``."""
        query = _WITH_POLICY.where(*_of(key), promotions.c.applied_at.is_not(None))
        if until is not None:
            query = query.where(promotions.c.applied_at <= until)
        return await self._read(query.order_by(promotions.c.applied_at.desc()).limit(limit))

    async def counts(self) -> Mapping[State, int]:
        """How many promotions are in each state that waits for somebody or something."""
        waiting = [State.PENDING, State.APPROVED, State.APPLYING, State.ROLLING_OUT]
        rows = await self._connection.execute(
            select(promotions.c.state, func.count()).where(is_in(waiting)).group_by(promotions.c.state)
        )
        found = {State(state): count for state, count in rows}
        return {state: found.get(state, 0) for state in waiting}

    async def add(self, promotion: Promotion) -> None:
        """Write a new promotion.

        Raises:
            Conflict: another open promotion of the same version came first.
        """
        key = {"workspace": promotion.workspace, "model": promotion.model, "alias": promotion.alias}
        await self._connection.execute(
            insert(promoted_aliases).values(**key, folded_model=fold(promotion.model)).on_conflict_do_nothing()
        )
        try:
            await self._connection.execute(
                insert(promotions).values(
                    id=promotion.id,
                    kind=promotion.kind.value,
                    model=promotion.model,
                    alias=promotion.alias,
                    to_version=promotion.to_version,
                    from_version=promotion.from_version,
                    model_created_at=promotion.model_created_at,
                    run_id=promotion.run_id,
                    source_uri=promotion.source_uri,
                    artifact_root=promotion.artifact_root,
                    uri=promotion.uri,
                    policy_name=promotion.policy.name,
                    policy_revision=promotion.policy.revision,
                    requested_by=promotion.requested_by,
                    requested_by_name=promotion.requested_by_name,
                    reason=promotion.reason,
                    created_at=promotion.created_at,
                    rolls_back=promotion.rolls_back,
                    workspace=promotion.workspace,
                    version_created_at=promotion.version_created_at,
                    scheduled_for=promotion.scheduled_for,
                    expires_at=promotion.expires_at,
                    **_changing(promotion),
                )
            )
        except IntegrityError as error:
            raise Conflict(
                f"Another promotion of {promotion.model} version {promotion.to_version} to {promotion.alias} is open."
            ) from error

    async def save(self, before: Promotion, after: Promotion) -> None:
        """Write what changed, on condition that the row is as it was read.

        Raises:
            Conflict: somebody else changed it meanwhile, or the alias has another promotion in flight.
        """
        changed = Conflict(f"Promotion {before.id} was changed meanwhile; read it again.", promotion=before.id)
        try:
            result = await self._connection.execute(
                update(promotions)
                .where(
                    promotions.c.id == before.id,
                    promotions.c.state == before.state.value,
                    promotions.c.revision == before.revision,
                )
                .values(**_changing(after))
            )
        except IntegrityError as error:
            raise changed from error
        if result.rowcount != 1:
            raise changed
        for decision in after.decisions[len(before.decisions) :]:
            await self._connection.execute(insert(decisions).values(promotion_id=after.id, **_row(decision)))

    async def _read(self, query: object) -> list[Promotion]:
        rows = (await self._connection.execute(query)).all()  # type: ignore[call-overload]  # any select of this module
        found = [_promotion(row) for row in rows]
        if not found:
            return []
        given: dict[str, list[Decision]] = {}
        query = (
            select(decisions)
            .where(decisions.c.promotion_id.in_([promotion.id for promotion in found]))
            .order_by(decisions.c.round, decisions.c.decided_at, decisions.c.principal_id)
        )
        for row in await self._connection.execute(query):
            given.setdefault(row.promotion_id, []).append(_decision(row))
        return [replace(promotion, decisions=tuple(given.get(promotion.id, ()))) for promotion in found]


def is_in(states: Iterable[State]) -> ColumnElement[bool]:
    """Whether a promotion is in one of the states.

    They stand in the statement's text: with parameters, PostgreSQL would not know that an index of such rows will do.
    """
    values = sorted(state.value for state in states)
    return promotions.c.state.in_(bindparam(None, values, expanding=True, literal_execute=True))


def _conditions(wanted: Filter) -> list[ColumnElement[bool]]:
    """What a filter asks of a promotion, without states and ``among``."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.model is not None:
        conditions.append(promotions.c.model == wanted.model)
    if wanted.alias is not None:
        conditions.append(promotions.c.alias == wanted.alias)
    if wanted.workspace is not None:
        conditions.append(promotions.c.workspace == wanted.workspace)
    if wanted.requested_by is not None:
        conditions.append(promotions.c.requested_by == wanted.requested_by)
    if wanted.awaiting is not None:
        decided_by = select(decisions.c.promotion_id).where(
            decisions.c.promotion_id == promotions.c.id,
            decisions.c.round == promotions.c.round,
            or_(decisions.c.principal_id == wanted.awaiting, decisions.c.on_behalf_of == wanted.awaiting),
        )
        conditions += [promotions.c.requested_by != wanted.awaiting, ~decided_by.exists()]
    return conditions


def _states(wanted: Filter) -> Sequence[State] | None:
    """The states that a filter asks for: what waits for a decision is pending."""
    if wanted.awaiting is None:
        return wanted.states
    return [state for state in (wanted.states or [State.PENDING]) if state is State.PENDING]


def _keys(among: Sequence[AliasKey], states: Sequence[State] | None) -> Keys:
    """Aliases, each in one of the states, if any are asked for."""
    if states is None:
        return columns_of(among)
    those = list(product(among, states))
    return {**columns_of([key for key, _ in those]), "state": [state.value for _, state in those]}


def _of(key: AliasKey) -> tuple[ColumnElement[bool], ...]:
    return (
        promotions.c.workspace == key.workspace,
        promotions.c.model == key.model,
        promotions.c.alias == key.alias,
    )


def _changing(promotion: Promotion) -> dict[str, object]:
    return {
        "digest": promotion.digest,
        "round": promotion.round,
        "void_reason": promotion.void_reason,
        "due_at": promotion.due_at,
        "reminded": promotion.reminded,
        "state": promotion.state.value,
        "state_reason": promotion.state_reason,
        "alias_moved": promotion.alias_moved,
        "applied_at": promotion.applied_at,
        "updated_at": promotion.updated_at,
        "revision": promotion.revision,
    }


def _promotion(row: Row[tuple[object, ...]]) -> Promotion:
    return Promotion(
        id=row.id,
        kind=Kind(row.kind),
        model=row.model,
        alias=row.alias,
        to_version=row.to_version,
        from_version=row.from_version,
        model_created_at=row.model_created_at,
        run_id=row.run_id,
        source_uri=row.source_uri,
        artifact_root=row.artifact_root,
        uri=row.uri,
        digest=row.digest,
        policy=policy_from_document(row.document, revision=row.policy_revision),
        requested_by=row.requested_by,
        requested_by_name=row.requested_by_name,
        reason=row.reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
        state=State(row.state),
        state_reason=row.state_reason,
        alias_moved=row.alias_moved,
        applied_at=row.applied_at,
        rolls_back=row.rolls_back,
        revision=row.revision,
        workspace=row.workspace,
        version_created_at=row.version_created_at,
        scheduled_for=row.scheduled_for,
        expires_at=row.expires_at,
        round=row.round,
        void_reason=row.void_reason,
        due_at=row.due_at,
        reminded=row.reminded,
    )


def _row(decision: Decision) -> dict[str, object]:
    return {
        "principal_id": decision.principal_id,
        "principal_name": decision.principal_name,
        "outcome": decision.outcome.value,
        "reason": decision.reason,
        "decided_at": decision.decided_at,
        "groups": sorted(decision.groups),
        "roles": sorted(decision.roles),
        "is_service": decision.is_service,
        "round": decision.round,
        "on_behalf_of": decision.on_behalf_of[0] if decision.on_behalf_of else None,
        "on_behalf_of_name": decision.on_behalf_of[1] if decision.on_behalf_of else None,
    }


def _decision(row: Row[tuple[object, ...]]) -> Decision:
    return Decision(
        principal_id=row.principal_id,
        principal_name=row.principal_name,
        outcome=Outcome(row.outcome),
        reason=row.reason,
        decided_at=row.decided_at,
        groups=frozenset(row.groups),
        roles=frozenset(row.roles),
        is_service=row.is_service,
        round=row.round,
        on_behalf_of=(row.on_behalf_of, row.on_behalf_of_name) if row.on_behalf_of else None,
    )
