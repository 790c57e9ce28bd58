"""Promotions and their decisions: read, listed by cursor, and written on condition that nobody else was faster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Row, Text, and_, cast, func, insert, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.adapters.postgres.tables import alias_holders, decisions, policy_revisions, promotions
from app.domain.errors import Conflict
from app.domain.policies import policy_from_document
from app.domain.promotions import (
    GOOD,
    TAKES_NEWER,
    UNSETTLED,
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


class Promotions:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def lock_alias(self, model: str, alias: str) -> None:
        """Let no other transaction open or begin a promotion of this alias until this one ends."""
        await self._connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"promotion:{model}@{alias}"}
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

    async def find_open(self, model: str, alias: str, version: str) -> Promotion | None:
        """The promotion of this very version that is not settled yet."""
        query = _WITH_POLICY.where(
            promotions.c.model == model,
            promotions.c.alias == alias,
            promotions.c.to_version == version,
            promotions.c.state.in_([state.value for state in UNSETTLED]),
        )
        return next(iter(await self._read(query)), None)

    async def waiting(self, model: str, alias: str) -> list[Promotion]:
        """Those that a newer promotion of the alias replaces, locked."""
        query = _WITH_POLICY.where(
            promotions.c.model == model,
            promotions.c.alias == alias,
            promotions.c.state.in_([state.value for state in TAKES_NEWER]),
        ).with_for_update(of=promotions)
        return await self._read(query)

    async def in_state(self, model: str, alias: str, state: State) -> list[Promotion]:
        """Those of an alias in one state, locked."""
        query = _WITH_POLICY.where(
            promotions.c.model == model, promotions.c.alias == alias, promotions.c.state == state.value
        ).with_for_update(of=promotions)
        return await self._read(query)

    async def last_good_before(self, holder: Promotion) -> Promotion | None:
        """The promotion whose version held the alias last before the present holder's, and was good."""
        query = (
            _WITH_POLICY.where(
                promotions.c.model == holder.model,
                promotions.c.alias == holder.alias,
                promotions.c.to_version != holder.to_version,
                promotions.c.state.in_([state.value for state in GOOD]),
                promotions.c.applied_at < holder.applied_at,
            )
            .order_by(promotions.c.applied_at.desc())
            .limit(1)
        )
        return next(iter(await self._read(query)), None)

    async def unsettled(
        self, states: Iterable[State], *, untouched_since: datetime, limit: int = 500
    ) -> list[Promotion]:
        """Those in one of ``states`` that nothing has changed since a time, oldest first."""
        query = (
            _WITH_POLICY.where(
                promotions.c.state.in_([state.value for state in states]), promotions.c.updated_at < untouched_since
            )
            .order_by(promotions.c.updated_at)
            .limit(limit)
        )
        return await self._read(query)

    async def page(
        self, wanted: Filter, *, before: tuple[datetime, str] | None = None, limit: int = 50
    ) -> Sequence[Promotion]:
        """Newest first, up to ``limit``, those before the key (created_at, id) of the last one seen."""
        query = _WITH_POLICY.order_by(promotions.c.created_at.desc(), promotions.c.id.desc()).limit(limit)
        if before:
            query = query.where(tuple_(promotions.c.created_at, promotions.c.id) < tuple_(*before))
        if wanted.model is not None:
            query = query.where(promotions.c.model == wanted.model)
        if wanted.alias is not None:
            query = query.where(promotions.c.alias == wanted.alias)
        if wanted.states is not None:
            query = query.where(promotions.c.state.in_([state.value for state in wanted.states]))
        if wanted.requested_by is not None:
            query = query.where(promotions.c.requested_by == wanted.requested_by)
        if wanted.among is not None:
            # Two parameters, however many there are: PostgreSQL takes 32,767 of them at most.
            among = (
                func.unnest(
                    cast([model for model, _ in wanted.among], ARRAY(Text)),
                    cast([alias for _, alias in wanted.among], ARRAY(Text)),
                )
                .table_valued("model", "alias")
                .render_derived()
            )
            query = query.where(
                tuple_(promotions.c.model, promotions.c.alias).in_(select(among.c.model, among.c.alias))
            )
        return await self._read(query)

    async def aliases(self, wanted: Filter) -> Sequence[tuple[str, str]]:
        """The (model, alias) of which there are promotions."""
        query = select(promotions.c.model, promotions.c.alias).distinct()
        if wanted.model is not None:
            query = query.where(promotions.c.model == wanted.model)
        if wanted.alias is not None:
            query = query.where(promotions.c.alias == wanted.alias)
        return [(row.model, row.alias) for row in await self._connection.execute(query)]

    async def history(
        self, model: str, alias: str, *, until: datetime | None = None, limit: int = 100
    ) -> list[Promotion]:
        """The promotions that moved an alias, newest first, those up to ``until``."""
        query = _WITH_POLICY.where(
            promotions.c.model == model, promotions.c.alias == alias, promotions.c.applied_at.is_not(None)
        )
        if until is not None:
            query = query.where(promotions.c.applied_at <= until)
        return await self._read(query.order_by(promotions.c.applied_at.desc()).limit(limit))

    async def approved_promotion_of(self, model: str, version: str) -> Promotion | None:
        """The promotion by which a version holds an alias now, if one does."""
        query = _WITH_POLICY.where(
            promotions.c.model == model,
            promotions.c.to_version == version,
            promotions.c.id.in_(select(alias_holders.c.promotion_id)),
        )
        return next(iter(await self._read(query.order_by(promotions.c.applied_at.desc()).limit(1))), None)

    async def counts(self) -> Mapping[State, int]:
        """How many promotions are in each state that waits for somebody or something."""
        waiting = [State.PENDING, State.APPROVED, State.APPLYING, State.ROLLING_OUT]
        rows = await self._connection.execute(
            select(promotions.c.state, func.count())
            .where(promotions.c.state.in_([state.value for state in waiting]))
            .group_by(promotions.c.state)
        )
        found = {State(state): count for state, count in rows.tuples()}
        return {state: found.get(state, 0) for state in waiting}

    async def add(self, promotion: Promotion, *, artifact_root: str) -> None:
        """Write a new promotion.

        Raises:
            Conflict: another open promotion of the same version came first.
        """
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
                    artifact_root=artifact_root,
                    uri=promotion.uri,
                    digest=promotion.digest,
                    policy_name=promotion.policy.name,
                    policy_revision=promotion.policy.revision,
                    requested_by=promotion.requested_by,
                    requested_by_name=promotion.requested_by_name,
                    reason=promotion.reason,
                    created_at=promotion.created_at,
                    rolls_back=promotion.rolls_back,
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
            .order_by(decisions.c.decided_at, decisions.c.principal_id)
        )
        for row in await self._connection.execute(query):
            given.setdefault(row.promotion_id, []).append(_decision(row))
        return [replace(promotion, decisions=tuple(given.get(promotion.id, ()))) for promotion in found]


def _changing(promotion: Promotion) -> dict[str, object]:
    return {
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
    )
