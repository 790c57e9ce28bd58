"""From applying to live: the steps the worker takes, each of which may be repeated and may be the last before a crash.

Every step reads the row, does one thing, and writes the row on condition that it is as it was read. MLflow has no
compare-and-set on aliases, so ours is: at most one promotion of an alias is in flight (an index holds it), the holder
is read and compared right before the alias is set, and read back after. What moves together with the alias (the alias
of the former holder, tags) is set after it. A promotion that cannot be finished is undone: what it replaced was written
down before, and is put back, the alias last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from app.adapters.postgres.aliases import Holder
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import SYSTEM_WORKER, Entry
from app.domain.companions import Step, former_holder, steps_of
from app.domain.digests import Measured
from app.domain.drifts import DriftEnd
from app.domain.errors import CountersignError, NotFound, Unavailable, Unresolvable
from app.domain.events import EventType
from app.domain.history import Held
from app.domain.promotions import AliasKey, Kind, Promotion, State, moved
from app.domain.rolling_out import alias_moves_of
from app.domain.rollouts import AliasMoves
from app.domain.verifying import approved
from app.ports import Clock, ModelRegistry, ResolversForgotten
from app.services.drifts import end as end_drift
from app.services.drifts import end_by as end_drift_by
from app.services.manifests import Manifests
from app.services.measuring import Measuring
from app.services.pinning import Difference, Pinning
from app.services.recording import UnitOfWorkFactory, alias_topic, emit, said_of, tell
from app.services.rolling_out import RollingOut


class Applying:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        registry: ModelRegistry,
        clock: Clock,
        *,
        pinning: Pinning,
        measuring: Measuring,
        forgotten: ResolversForgotten,
        manifests: Manifests,
        rolling_out: RollingOut,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._clock = clock
        self._pinning = pinning
        self._measuring = measuring
        self._forgotten = forgotten
        self._manifests = manifests
        self._rolling_out = rolling_out

    async def apply(self, promotion: Promotion) -> None:
        """Move the alias of a promotion that is *applying*, and what moves with it; then call its targets.

        Raises:
            UpstreamUnavailable, Unavailable: try again later; the promotion is where it was.
        """
        found = await self.found(promotion)
        # From here on one worker at a time: another, that was thought dead, must not undo what this one does. The lock
        # ends with the connection, and so with the worker; nobody but who applies this promotion waits for it.
        async with self._unit_of_work() as alone:
            await alone.promotions.lock_applying(promotion.id)
            if (await alone.promotions.get(promotion.id)).state is not State.APPLYING:
                return
            if isinstance(found, Difference):
                await self._end(promotion, await self._undone(promotion, found))
                return
            difference = await self._move_alias(promotion) or await self._move_companions(promotion)
            if difference is None:
                await self._finish(promotion, found)
            else:
                await self._end(promotion, await self._undone(promotion, difference))

    async def found(self, promotion: Promotion) -> Measured | Difference:
        """What lies there, or how model, version, holder or bytes differ from what was approved.

        To read the bytes may take long.
        """
        _, difference = await self._pinning.difference(promotion)
        if difference:
            return difference
        try:
            found = await self._measuring.again(promotion.id, promotion.uri)
        except (NotFound, Unresolvable) as gone:
            return Difference(gone.message)
        if found.digest != promotion.digest:
            return Difference(f"the artifacts changed: their digest is {found.digest}, approved was {promotion.digest}")
        await self._manifests.keep(promotion.uri, found)
        return found

    async def _move_alias(self, promotion: Promotion) -> Difference | None:
        """Compare at the last moment, set, read back. Repeating it after a crash finds the alias moved and goes on."""
        await self._remember(promotion)
        seen = await self._holder(promotion)
        if seen == promotion.to_version != promotion.from_version:
            return None
        if seen != promotion.from_version:
            now = f"version {seen}" if seen else "no version"
            return Difference(f"{promotion.alias} came to be held by {now} while this was being applied")
        try:
            await self._registry.set_alias(promotion.model, promotion.alias, promotion.to_version, promotion.workspace)
        except Unavailable:
            raise
        except CountersignError as refused:
            return Difference(f"{promotion.alias} could not be moved: {refused.message.rstrip('.')}")
        seen = await self._holder(promotion)
        if seen != promotion.to_version:
            why = f"{promotion.alias} was set and then read back as held by version {seen}: somebody else moved it"
            return Difference(why, alias_moved=True)
        return None

    async def _holder(self, promotion: Promotion) -> str | None:
        model = await self._registry.get_model(promotion.model, promotion.workspace)
        return model.aliases.get(promotion.alias)

    async def _remember(self, promotion: Promotion) -> None:
        """Write down, once, what is there of what moves with the alias, before the first of it moves."""
        steps = steps_of(promotion)
        if not steps:
            return
        values = await self._present(promotion, steps)
        async with self._unit_of_work() as work:
            await work.promotions.keep_replaced(promotion.id, values)
            await work.commit()

    async def _present(self, promotion: Promotion, steps: Sequence[Step]) -> Sequence[str | None]:
        """What is there of what the steps set; nothing of a version that is gone."""
        model = await self._registry.get_model(promotion.model, promotion.workspace)
        tags: dict[str, Mapping[str, str]] = {}
        for version in {step.version for step in steps if step.version}:
            try:
                found = await self._registry.describe_version(promotion.model, version, workspace=promotion.workspace)
            except NotFound:
                tags[version] = {}
            else:
                tags[version] = found.tags
        return [tags[step.version].get(step.key) if step.version else model.aliases.get(step.key) for step in steps]

    async def _move_companions(self, promotion: Promotion) -> Difference | None:
        """Set what moves together with the alias. Repeating it changes nothing."""
        for step in steps_of(promotion):
            try:
                await self._put(promotion, step, step.value)
            except Unavailable:
                raise
            except CountersignError as refused:
                why = f"what moves with {promotion.alias} could not be moved: {refused.message.rstrip('.')}"
                return Difference(why, alias_moved=promotion.to_version != promotion.from_version)
        return None

    async def _put(self, promotion: Promotion, step: Step, value: str | None) -> None:
        """Have what the step sets be ``value``, or not be there at all."""
        model, workspace = promotion.model, promotion.workspace
        if step.version is None:
            if value is None:
                await self._registry.delete_alias(model, step.key, workspace)
            else:
                await self._registry.set_alias(model, step.key, value, workspace)
        elif value is None:
            await self._registry.delete_version_tag(model, step.version, step.key, workspace)
        else:
            await self._registry.set_version_tag(model, step.version, step.key, value, workspace)

    async def _undone(self, promotion: Promotion, why: Difference) -> Difference:
        """Put everything back that this promotion moved, and that nobody has moved since; what is left to say then.

        The alias is the last: as long as it has not gone back, a crash has all of this done again, and nothing that
        moves with the alias is ever left without it.
        """
        async with self._unit_of_work() as work:
            replaced = await work.promotions.replaced(promotion.id)
        try:
            registered = await self._pinning.model(promotion.key)
        except NotFound:
            return why
        if registered.created_at != promotion.model_created_at:
            return why
        steps = () if replaced is None else tuple(zip(steps_of(promotion), replaced, strict=True))
        stuck = [step for step, before in reversed(steps) if not await self._put_back(promotion, step, before)]
        is_moved = await self._holder(promotion) == promotion.to_version != promotion.from_version
        main = Step(promotion.alias, promotion.to_version)
        if is_moved and not await self._put_back(promotion, main, promotion.from_version):
            stuck.append(main)
        if stuck:
            left = " and ".join(map(str, stuck))
            return Difference(f"{why.reason}; {left} could not be put back", main in stuck, is_partial=True)
        return Difference(f"{why.reason}; everything was put back") if is_moved else why

    async def _put_back(self, promotion: Promotion, step: Step, before: str | None) -> bool:
        """Whether it is as it was, or as somebody else has made it."""
        (present,) = await self._present(promotion, [step])
        if present != step.value or present == before:
            return True
        try:
            await self._put(promotion, step, before)
        except Unavailable:
            raise
        except CountersignError:
            return False
        return True

    async def take_away(self, promotion: Promotion) -> Difference | None:
        """Have nobody hold the alias that a promotion moved, or who held it before though no promotion of ours had.

        For one whose targets went back, and before which there was nothing good to roll back to. MLflow is asked while
        the alias is locked, so that no promotion begins to move it meanwhile; repeating it after a crash goes on.

        Returns:
            Why that cannot be; none: it is done, or somebody else has moved the alias since, or is about to.

        Raises:
            UpstreamUnavailable, Unavailable: try again later.
        """
        async with self._unit_of_work() as work:
            await work.promotions.lock_alias(promotion.key)
            holder, ahead = await work.aliases.get(promotion.key), await work.promotions.in_flight(promotion.key)
            if holder is None or holder.promotion_id != promotion.id or ahead not in {None, promotion.id}:
                return None
            left = await self._undone(promotion, Difference("it went back"))
            if left.is_partial:
                return left
            try:
                seen = await self._holder(promotion)
            except NotFound:
                seen = None
            if seen == promotion.to_version:
                return Difference("it is another model of the same name")
            now = self._clock.now()
            await work.aliases.remove(promotion.key)
            gone = Held(promotion.key, seen, now, "restored", promotion.model_created_at)
            await work.history.add(gone.by(SYSTEM_WORKER.id, SYSTEM_WORKER.name))
            known = {
                "cause": "restored",
                "version": seen,
                "from_version": promotion.to_version,
                "by": SYSTEM_WORKER.name,
            }
            emit(work, EventType.ALIAS_MOVED, subject=str(promotion.key), key=promotion.key, at=now, known=known)
            work.record(Entry(now, SYSTEM_WORKER, "alias.taken_away", str(promotion.key), {"promotion": promotion.id}))
            drift = await work.drifts.find_open(promotion.key)
            if drift:
                await end_drift(work, drift, DriftEnd.RESTORED, at=now)
            work.announce(alias_topic(promotion.key))
            work.forget_resolutions(workspace=promotion.workspace, model=promotion.model)
            await self._rolling_out.settle(work, promotion.id)
            await work.commit()
        await self._forgotten.wait()
        return None

    async def _finish(self, promotion: Promotion, found: Measured) -> None:
        """The alias is where it should be: say so, and call the targets, all in one transaction."""
        # Whoever is told that it is applied is never again answered what was remembered before.
        await self._forgotten.wait()
        async with self._unit_of_work() as work:
            await work.promotions.lock_alias(promotion.key)
            before = await work.promotions.get(promotion.id, for_update=True)
            if before.state is not State.APPLYING:
                return
            last, now = await work.history.last(promotion.key), self._clock.now()
            if last and now <= last.since:
                # The clock was set back. What was good before is known by when it was applied.
                now = last.since + timedelta(microseconds=1)
            after = moved(before, State.APPLIED, at=now)
            await work.promotions.save(before, after)
            await work.aliases.put(
                Holder(after.model, after.alias, after.to_version, after.id, since=now, workspace=after.workspace)
            )
            await work.verifications.approve(approved(after, found, at=now))
            await self._write_history(work, after)
            await end_drift_by(work, after)
            if after.kind is Kind.BREAK_GLASS:
                await work.reviews.open(after.id, after.key, at=now)
            tell(work, "promotion.applied", after)
            if after.to_version != after.from_version:
                tell_moved(work, after, after.key, version=after.to_version, before=after.from_version)
            await self._end_what_is_rolled_back(work, after)
            await self._rolling_out.take_over(work, after)
            if after.policy.targets:
                await self._go_on(work, after)
            work.announce(alias_topic(after.key))
            work.forget_resolutions(workspace=after.workspace, model=after.model)
            await work.commit()

    async def _go_on(self, work: UnitOfWork, applied: Promotion) -> None:
        """Call the targets now, or say that they were ready before the alias moved."""
        if alias_moves_of(applied) is AliasMoves.AFTER_READY:
            after = moved(applied, State.LIVE, at=applied.updated_at)
            await work.promotions.save(applied, after)
            tell(work, "promotion.live", after)
            return
        after = moved(applied, State.ROLLING_OUT, at=applied.updated_at)
        await work.promotions.save(applied, after)
        tell(work, "promotion.rolling_out", after, targets=", ".join(after.policy.targets))
        await self._rolling_out.begin(work, after)

    async def _write_history(self, work: UnitOfWork, promotion: Promotion) -> None:
        held = Held(
            promotion.key,
            promotion.to_version,
            since=promotion.updated_at,
            cause="promotion",
            model_created_at=promotion.model_created_at,
            promotion_id=promotion.id,
            principal_id=promotion.requested_by,
            principal_name=promotion.requested_by_name,
        )
        await work.history.add(held)
        previous, former = promotion.policy.companions.previous, former_holder(promotion)
        if previous and former:
            key = AliasKey(promotion.workspace, promotion.model, previous)
            await work.promotions.lock_alias(key)
            before = await work.history.last(key)
            if await work.history.add(replace(held, key=key, version=former, cause="companion")):
                tell_moved(work, promotion, key, version=former, before=before.version if before else None)

    async def _end_what_is_rolled_back(self, work: UnitOfWork, rollback: Promotion) -> None:
        if rollback.rolls_back is None:
            return
        before = await work.promotions.get(rollback.rolls_back, for_update=True)
        if before.state is State.ROLLED_BACK:
            return
        why = f"rolled back by {rollback.id}"
        if rollback.is_automatic and before.state_reason:
            why = f"{before.state_reason}; {why}"
        after = moved(before, State.ROLLED_BACK, at=self._clock.now(), reason=why)
        await work.promotions.save(before, after)
        tell(work, "promotion.rolled_back", after, by=rollback.id)

    async def _end(self, promotion: Promotion, difference: Difference) -> None:
        """*Stale* when everything is as it was, *failed* when it is not and a person must look."""
        async with self._unit_of_work() as work:
            before = await work.promotions.get(promotion.id, for_update=True)
            if before.state is not State.APPLYING:
                return
            state = State.FAILED if difference.alias_moved or difference.is_partial else State.STALE
            after = moved(
                before, state, at=self._clock.now(), reason=difference.reason, alias_moved=difference.alias_moved
            )
            await work.promotions.save(before, after)
            await self._rolling_out.give_back(work, after, difference.reason)
            await self._note_not_rolled_back(work, after)
            if after.kind is Kind.BREAK_GLASS and after.alias_moved:
                await work.reviews.open(after.id, after.key, at=after.updated_at)
            tell(work, f"promotion.{after.state}", after)
            work.forget_resolutions(workspace=after.workspace, model=after.model)
            await work.commit()

    async def _note_not_rolled_back(self, work: UnitOfWork, rollback: Promotion) -> None:
        """A rollback that was to happen by itself did not: say so on what it was to undo."""
        if rollback.rolls_back is None or not rollback.is_automatic:
            return
        before = await work.promotions.get(rollback.rolls_back, for_update=True)
        if before.state is not State.FAILED:
            return
        why = not_rolled_back(before, before.state_reason or "it failed", rollback.state_reason or "it failed")
        after = replace(before, state_reason=why, updated_at=rollback.updated_at, revision=before.revision + 1)
        await work.promotions.save(before, after)
        tell(work, "promotion.failed", after, by=rollback.id)
        await self._rolling_out.settle(work, after.id)


def tell_moved(work: UnitOfWork, promotion: Promotion, key: AliasKey, *, version: str, before: str | None) -> None:
    """Say that a promotion had an alias change its holder: its own, or one that moves with it."""
    is_its_own = key == promotion.key
    known = {
        **(said_of(promotion) if is_its_own else {"promotion": promotion.id, "kind": promotion.kind.value}),
        "cause": "promotion" if is_its_own else "companion",
        "version": version,
        "from_version": before,
        "by": promotion.requested_by_name,
    }
    emit(work, EventType.ALIAS_MOVED, subject=str(key), key=key, at=promotion.updated_at, known=known)


def not_rolled_back(promotion: Promotion, why: str, why_not: str) -> str:
    """For people: what went wrong first, what of it is as it was, and where the alias is."""
    return (
        f"{why}; its targets were sent back to what they served before, but {promotion.alias} is still held by version "
        f"{promotion.to_version}: {why_not.rstrip('.')}"
    )
