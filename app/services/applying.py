"""From approved to live: the steps the worker takes, each of which may be repeated and may be the last before a crash.

Every step reads the row, does one thing, and writes the row on condition that it is as it was read. MLflow has no
compare-and-set on aliases, so ours is: at most one promotion of an alias is in flight (an index holds it), the holder
is read and compared right before the alias is set, and read back after.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from app.adapters.postgres.aliases import Holder
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.deliveries import Delivery, DeliveryState
from app.domain.deployments import Target, all_ready
from app.domain.digests import tree_digest
from app.domain.errors import NotFound, Unresolvable
from app.domain.events import DEPLOYMENT_REQUESTED, deployment_requested
from app.domain.promotions import Kind, Promotion, State, moved
from app.ports import Clock, ModelRegistry, ObjectStore
from app.services.identifiers import new_id
from app.services.promotions import topic_of
from app.services.recording import UnitOfWorkFactory, promotion_entry

TURN_WAIT = timedelta(seconds=1)
"""How soon to look again when another promotion of the alias is being applied."""


@dataclass(frozen=True, slots=True)
class _Halt:
    """Why a promotion cannot be applied: *stale* while the alias is where it was, *failed* when it has moved."""

    reason: str
    alias_moved: bool = False

    @property
    def state(self) -> State:
        return State.FAILED if self.alias_moved else State.STALE


class Applying:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        registry: ModelRegistry,
        store: ObjectStore,
        clock: Clock,
        *,
        public_url: str,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._store = store
        self._clock = clock
        self._public_url = public_url

    async def advance(self, promotion_id: str) -> None:
        """Do whatever is next for a promotion; nothing when nothing is.

        Raises:
            UpstreamUnavailable, Unavailable: try again later; the promotion is where it was.
        """
        promotion = await self._begin(promotion_id)
        if promotion is None or promotion.state is not State.APPLYING:
            return
        halt = await self._move_alias(promotion)
        if halt is None:
            await self._finish(promotion)
        else:
            await self._end(promotion, halt)

    async def _begin(self, promotion_id: str) -> Promotion | None:
        """Take the alias's one place in flight. ``None`` when it is not this promotion's turn."""
        async with self._unit_of_work() as work:
            promotion = await work.promotions.get(promotion_id)
            if promotion.state is not State.APPROVED:
                return promotion
            await work.promotions.lock_alias(promotion.model, promotion.alias)
            before = await work.promotions.get(promotion_id, for_update=True)
            if before.state is not State.APPROVED:
                return before
            if await work.promotions.in_state(before.model, before.alias, State.APPLYING):
                await work.jobs.advance_promotion(before.id, at=self._clock.now() + TURN_WAIT)
                await work.commit()
                return None
            await self._end_rollouts(work, before)
            after = moved(before, State.APPLYING, at=self._clock.now())
            await work.promotions.save(before, after)
            work.record(promotion_entry("promotion.applying", after))
            work.announce(topic_of(after.id))
            await work.commit()
        return after

    async def _end_rollouts(self, work: UnitOfWork, newer: Promotion) -> None:
        """What is being rolled out now will not become live: this promotion takes its place."""
        for older in await work.promotions.in_state(newer.model, newer.alias, State.ROLLING_OUT):
            undone = newer.kind is Kind.ROLLBACK and newer.rolls_back == older.id
            state = State.ROLLED_BACK if undone else State.SUPERSEDED
            after = moved(older, state, at=self._clock.now(), reason=f"{newer.id} took its place during the rollout")
            await work.promotions.save(older, after)
            work.record(promotion_entry(f"promotion.{state}", after, by=newer.id))
            work.announce(topic_of(after.id))

    async def _move_alias(self, promotion: Promotion) -> _Halt | None:
        """Compare, set, read back. Repeating it after a crash finds the alias moved and changes nothing."""
        try:
            model = await self._registry.get_model(promotion.model)
        except NotFound as gone:
            return _Halt(gone.message)
        holder = model.aliases.get(promotion.alias)
        is_moved = holder == promotion.to_version and holder != promotion.from_version
        if model.created_at != promotion.model_created_at:
            return _Halt(f"model {promotion.model} was deleted and created again; its versions are others")
        if why := await self._what_changed(promotion):
            return _Halt(f"the alias moved, but {why}" if is_moved else why, alias_moved=is_moved)
        if is_moved:
            return None
        if holder != promotion.from_version:
            was = f"version {promotion.from_version}" if promotion.from_version else "no version"
            now = f"version {holder}" if holder else "no version"
            return _Halt(f"{promotion.alias} was held by {was} when this was asked for, and is by {now} now")
        await self._registry.set_alias(promotion.model, promotion.alias, promotion.to_version)
        seen = (await self._registry.get_model(promotion.model)).aliases.get(promotion.alias)
        if seen != promotion.to_version:
            why = f"{promotion.alias} was set and then read back as held by version {seen}: somebody else moved it"
            return _Halt(why, alias_moved=True)
        return None

    async def _what_changed(self, promotion: Promotion) -> str | None:
        """How the version differs from what was approved."""
        try:
            version = await self._registry.get_version(promotion.model, promotion.to_version)
            if version.source_uri != promotion.source_uri:
                return f"version {promotion.to_version} points to {version.source_uri} now"
            digest = tree_digest(await self._store.files(promotion.uri))
        except (NotFound, Unresolvable) as gone:
            return gone.message
        if digest != promotion.digest:
            return f"the artifacts changed: their digest is {digest}, approved was {promotion.digest}"
        return None

    async def _finish(self, promotion: Promotion) -> None:
        """The alias is where it should be: say so, and call the targets, all in one transaction."""
        async with self._unit_of_work() as work:
            before = await work.promotions.get(promotion.id, for_update=True)
            if before.state is not State.APPLYING:
                return
            now = self._clock.now()
            after = moved(before, State.APPLIED, at=now)
            await work.promotions.save(before, after)
            await work.aliases.put(Holder(after.model, after.alias, after.to_version, after.id, since=now))
            work.record(promotion_entry("promotion.applied", after))
            await self._end_what_is_rolled_back(work, after)
            if after.policy.targets:
                applied, after = after, moved(after, State.ROLLING_OUT, at=now)
                await work.promotions.save(applied, after)
                for name in after.policy.targets:
                    await self._call(work, after, await work.targets.get(name))
                work.record(promotion_entry("promotion.rolling_out", after, targets=", ".join(after.policy.targets)))
            work.announce(topic_of(after.id))
            work.announce(alias_topic(after.model, after.alias))
            await work.commit()

    async def _end_what_is_rolled_back(self, work: UnitOfWork, rollback: Promotion) -> None:
        if rollback.rolls_back is None:
            return
        before = await work.promotions.get(rollback.rolls_back, for_update=True)
        if before.state is State.ROLLED_BACK:
            return
        after = moved(before, State.ROLLED_BACK, at=self._clock.now(), reason=f"rolled back by {rollback.id}")
        await work.promotions.save(before, after)
        work.record(promotion_entry("promotion.rolled_back", after, by=rollback.id))
        work.announce(topic_of(after.id))

    async def _call(self, work: UnitOfWork, promotion: Promotion, target: Target) -> None:
        """Count the target's generation up and write the message that tells it."""
        present = await work.deployments.find(model=promotion.model, target=target.name)
        deployment = await work.deployments.desire(
            new_id=new_id("dep"),
            target=target.name,
            model=promotion.model,
            version=promotion.to_version,
            uri=promotion.uri,
            digest=promotion.digest,
            promotion_id=promotion.id,
            at=promotion.updated_at,
        )
        delivery_id = new_id("evt")
        payload = deployment_requested(
            event_id=delivery_id,
            source=self._public_url,
            deployment=deployment,
            promotion=promotion,
            previous=present[0] if present else None,
            deadline_s=target.deadline_s,
        )
        await work.deliveries.add(
            Delivery(
                id=delivery_id,
                target=target.name,
                event_type=DEPLOYMENT_REQUESTED,
                subject=f"{target.name}/{promotion.model}",
                generation=deployment.generation,
                payload=payload,
                state=DeliveryState.PENDING,
                attempts=0,
                created_at=promotion.updated_at,
                next_attempt_at=promotion.updated_at,
            )
        )
        await work.jobs.deliver(delivery_id)

    async def _end(self, promotion: Promotion, halt: _Halt) -> None:
        async with self._unit_of_work() as work:
            before = await work.promotions.get(promotion.id, for_update=True)
            if before.state is not State.APPLYING:
                return
            now = self._clock.now()
            after = moved(before, halt.state, at=now, reason=halt.reason, alias_moved=halt.alias_moved)
            await work.promotions.save(before, after)
            work.record(promotion_entry(f"promotion.{after.state}", after))
            work.announce(topic_of(after.id))
            await work.commit()


def alias_topic(model: str, alias: str) -> str:
    """What to subscribe to, to follow an alias."""
    return f"alias:{model}@{alias}"


async def settle_rollout(work: UnitOfWork, promotion_id: str, clock: Clock) -> None:
    """Move a promotion that is rolling out on, if its deployments say so. Part of the caller's transaction."""
    before = await work.promotions.get(promotion_id, for_update=True)
    if before.state is not State.ROLLING_OUT:
        return
    deployments = await work.deployments.of_promotion(promotion_id)
    failed = next((deployment for deployment in deployments if deployment.has_failed), None)
    if failed:
        why = f"target {failed.target} failed ({failed.reason}): {failed.message}"
        after = moved(before, State.FAILED, at=clock.now(), reason=f"the alias moved, but {why}")
    elif len(deployments) == len(before.policy.targets) and all_ready(deployments):
        after = moved(before, State.LIVE, at=clock.now())
    else:
        return
    await work.promotions.save(before, after)
    work.record(promotion_entry(f"promotion.{after.state}", after))
    work.announce(topic_of(after.id))
