"""What the worker does for a promotion that waits: read its artifacts, look at its facts again, begin when it may.

Every step reads the row, does one thing, and writes the row on condition that it is as it was read; a step may be
repeated, and may be the last before a crash. Nothing here holds a transaction while it waits for MLflow or a store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from app.adapters.postgres.evidence import Taken
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.assessing import Gate, assess, passes, whose_approval_is_missing
from app.domain.digests import FileDigest, measured
from app.domain.errors import NotFound, Unresolvable
from app.domain.promotions import TAKES_NEWER, Kind, Promotion, State, moved
from app.domain.promotions import measured as with_digest
from app.domain.rolling_out import alias_moves_of
from app.domain.rollouts import AliasMoves
from app.ports import Clock
from app.services.applying import Applying
from app.services.examining import Examining, looks_at_facts, needs_files
from app.services.lifecycle import Lifecycle
from app.services.measuring import Measuring
from app.services.pinning import Difference, Pinning
from app.services.recording import UnitOfWorkFactory, tell
from app.services.rolling_out import RollingOut


class Advancing:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        clock: Clock,
        *,
        pinning: Pinning,
        measuring: Measuring,
        examining: Examining,
        lifecycle: Lifecycle,
        applying: Applying,
        rolling_out: RollingOut,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._pinning = pinning
        self._measuring = measuring
        self._examining = examining
        self._lifecycle = lifecycle
        self._applying = applying
        self._rolling_out = rolling_out

    async def advance(self, promotion_id: str) -> None:
        """Do whatever is next for a promotion, until it has to wait; nothing when nothing is.

        Raises:
            UpstreamUnavailable, Unavailable: try again later; the promotion is where it was.
        """
        async with self._unit_of_work() as work:
            promotion = await work.promotions.get(promotion_id)
        if promotion.state in TAKES_NEWER:
            promotion = await self._look(promotion)
        if promotion.state is State.APPROVED:
            promotion = await self._begin(promotion)
        if promotion.state is State.APPLYING:
            await self._applying.apply(promotion)

    async def _look(self, promotion: Promotion) -> Promotion:
        """Find what is not known of a promotion yet, and what has changed since; then settle it."""
        is_over = promotion.expires_at is not None and self._clock.now() >= promotion.expires_at
        if not is_over and (promotion.state is State.APPROVED or promotion.digest is None):
            _, difference = await self._pinning.difference(promotion)
            if difference:
                return await self._end(promotion, difference)
        async with self._unit_of_work() as work:
            before = await work.evidence.get(promotion.id)
        files: Sequence[FileDigest] | None = None
        if not is_over and (promotion.digest is None or needs_files(promotion, before)):
            promotion, files = await self._read(promotion)
            if promotion.state not in TAKES_NEWER:
                return promotion
        if is_over or (before is not None and files is None and not looks_at_facts(promotion)):
            return await self._settle(promotion, None)
        return await self._settle(promotion, await self._examining.examine(promotion, before=before, files=files))

    async def _read(self, promotion: Promotion) -> tuple[Promotion, Sequence[FileDigest] | None]:
        """Read the artifacts, and pin their digest or compare it."""
        try:
            files = (await self._measuring.measure(promotion.id, promotion.uri)).files
        except (NotFound, Unresolvable) as gone:
            return await self._end(promotion, Difference(gone.message)), None
        digest = measured(files).digest
        if promotion.digest is None:
            if why := await self._not_what_it_goes_back_to(promotion, digest):
                return await self._end(promotion, Difference(why)), None
            return await self._known(promotion, digest), files
        if digest != promotion.digest:
            why = f"the artifacts changed: their digest is {digest}, approved was {promotion.digest}"
            return await self._end(promotion, Difference(why)), None
        return promotion, files

    async def _not_what_it_goes_back_to(self, promotion: Promotion, digest: str) -> str | None:
        """A rollback goes back to the bytes that were good, not to a version of that number."""
        if promotion.kind not in {Kind.ROLLBACK, Kind.RESTORE}:
            return None
        async with self._unit_of_work() as work:
            past = await work.promotions.history(promotion.key, limit=200)
        was = next((each for each in past if each.to_version == promotion.to_version), None)
        if was is None or was.digest == digest:
            return None
        return f"version {promotion.to_version} is not what was promoted in {was.id}: its digest is {digest} now"

    async def _known(self, promotion: Promotion, digest: str) -> Promotion:
        async with self._unit_of_work() as work:
            present = await work.promotions.get(promotion.id, for_update=True)
            if present.digest is not None or present.state not in TAKES_NEWER:
                return present
            after = with_digest(present, digest, at=self._clock.now())
            await work.promotions.save(present, after)
            statuses = assess(await self._lifecycle.cases.of(work, after, at=self._clock.now()))
            if missing := whose_approval_is_missing(statuses):
                tell(work, "promotion.ready_for_decision", after, digest=digest, waits_for=missing)
            await work.commit()
        return after

    async def _settle(self, promotion: Promotion, taken: Taken | None) -> Promotion:
        """Keep what was found, if anything was, and move the promotion on as far as its rules let it."""
        async with self._unit_of_work() as work:
            present = await work.promotions.get(promotion.id, for_update=True)
            if taken is not None and present.state in TAKES_NEWER:
                present = await self._lifecycle.examined(work, present, taken)
            present, _ = await self._lifecycle.settle(work, present, begins_next=True)
            await work.commit()
        return present

    async def _begin(self, promotion: Promotion) -> Promotion:
        """Take the alias's one place in flight, if everything lets it and it is this promotion's turn."""
        targets_first = alias_moves_of(promotion) is AliasMoves.AFTER_READY
        if targets_first and await self._may_begin(promotion):
            # No target loads what is not what was approved; once more it is looked at before the alias moves.
            found = await self._applying.found(promotion)
            if isinstance(found, Difference):
                return await self._end(promotion, found)
        async with self._unit_of_work() as work:
            await work.promotions.lock_alias(promotion.key)
            before = await work.promotions.get(promotion.id, for_update=True)
            if before.state is not State.APPROVED:
                return before
            statuses = assess(await self._lifecycle.cases.of(work, before, at=self._clock.now()))
            if not passes(statuses, Gate.APPLICATION):
                before, _ = await self._lifecycle.settle(work, before)
                await work.commit()
                return before
            await self._end_rollouts(work, before)
            state = State.ROLLING_OUT if targets_first else State.APPLYING
            after = replace(moved(before, state, at=self._clock.now()), due_at=None)
            await work.promotions.save(before, after)
            if targets_first:
                tell(work, "promotion.rolling_out", after, targets=", ".join(after.policy.targets))
                await self._rolling_out.take_over(work, after)
                await self._rolling_out.begin(work, after)
            else:
                tell(work, "promotion.applying", after)
                # From here on the alias is not remembered anywhere, until it is said where it is.
                work.forget_resolutions(workspace=after.workspace, model=after.model)
            await work.commit()
        return after

    async def _may_begin(self, promotion: Promotion) -> bool:
        """Whether nothing stands in the way at the moment. It is asked again when the alias is locked."""
        async with self._unit_of_work() as work:
            return passes(
                assess(await self._lifecycle.cases.of(work, promotion, at=self._clock.now())), Gate.APPLICATION
            )

    async def _end_rollouts(self, work: UnitOfWork, newer: Promotion) -> None:
        """What is being rolled out now will not become live: this promotion takes its place."""
        for older in await work.promotions.in_state(newer.key, State.ROLLING_OUT):
            undone = newer.kind is Kind.ROLLBACK and newer.rolls_back == older.id
            why, state = f"{newer.id} took its place during the rollout", State.SUPERSEDED
            if undone and newer.is_automatic:
                # Should that fail, this is what a person finds; that it failed is told when it stays so.
                progress = await work.rollouts.find(older.id)
                state, why = State.FAILED, progress.reason if progress else why
            after = moved(older, state, at=self._clock.now(), reason=why)
            await work.promotions.save(older, after)
            # It is rolled back when the alias is.
            tell(work, "promotion.is_rolled_back" if undone else "promotion.superseded", after, by=newer.id)

    async def _end(self, promotion: Promotion, difference: Difference) -> Promotion:
        """The world is not what was pinned, and the alias was not moved by us: it is stale."""
        async with self._unit_of_work() as work:
            before = await work.promotions.get(promotion.id, for_update=True)
            if before.state not in TAKES_NEWER:
                return before
            after = replace(moved(before, State.STALE, at=self._clock.now(), reason=difference.reason), due_at=None)
            await work.promotions.save(before, after)
            tell(work, "promotion.stale", after)
            await work.commit()
        return after
