"""Finds aliases that were moved past the gateway, says so, and has them put back where the policy wants it.

Each look compares what MLflow lists with what is on record, in memory. What differs is looked at a second time, a
moment later, and is believed only if MLflow shows the same again, no promotion is moving the alias, and our record is
as it was before MLflow was asked; so neither a promotion that is being applied, nor a change that the gateway has let
through and not written down yet, nor a replica that lags is taken for drift. Nothing is concluded from a list that
broke off. A look may be repeated, and may be the last before a crash: what it concludes is written alias by alias.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import SYSTEM_WORKER, Entry
from app.domain.drifts import NOBODY, Drift, DriftEnd, Sight, expected, governing, next_attempt
from app.domain.errors import CountersignError, NotFound, Unavailable
from app.domain.events import EventType
from app.domain.history import Held
from app.domain.policies import OnDrift, Policy
from app.domain.promotions import OPEN, AliasKey, State
from app.ports import Clock, ModelRegistry, RegisteredModel
from app.services.drifts import end, tell_of
from app.services.identifiers import new_id
from app.services.promotions import Promotions
from app.services.recording import UnitOfWorkFactory, alias_topic, emit
from app.telemetry import DRIFTS

_log = structlog.stdlib.get_logger(__name__)

PAUSE_S = 1.0
"""Between the two looks."""

SETTLED = timedelta(seconds=5)
"""An alias that moved as short a time ago as this is not judged: MLflow may read from a replica that is behind."""

AT_A_TIME = 100
"""Aliases that are written down in one transaction, at the first look; each is locked."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What is on record of an alias. ``ledger`` is the promotion by which it is held, and the holder."""

    ledger: tuple[str, Sight] | None
    last: Held | None
    is_being_moved: bool


class Reconciling:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        registry: ModelRegistry,
        clock: Clock,
        promotions: Promotions,
        *,
        pause_s: float = PAUSE_S,
        settled: timedelta = SETTLED,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._registry = registry
        self._clock = clock
        self._promotions = promotions
        self._pause_s = pause_s
        self._settled = settled

    async def reconcile(self) -> None:
        """Look once at every alias of every model.

        Raises:
            UpstreamUnavailable, Unavailable: MLflow or the database went away; what was found until then is written.
        """
        await self._first_look()
        suspects = await self._differences()
        if not suspects:
            return
        await asyncio.sleep(self._pause_s)
        by_model: defaultdict[tuple[str, str], dict[AliasKey, Sight]] = defaultdict(dict)
        for key, seen in suspects.items():
            by_model[key.workspace, key.model][key] = seen
        for (workspace, model), of_model in by_model.items():
            await self._look_again(workspace, model, of_model)

    async def open_drifts(self) -> int:
        async with self._unit_of_work() as work:
            return await work.drifts.count_open()

    # The first look.

    async def _first_look(self) -> None:
        """Write down, as *unattributed*, whatever holds an alias in a workspace that was never looked at."""
        async with self._unit_of_work() as work:
            looked_at = await work.drifts.looked_at()
        new = [each for each in await self._registry.workspaces() if each not in looked_at]
        if not new:
            return
        found: dict[AliasKey, Sight] = {}
        for _ in range(2):  # MLflow counts its pages: a model that is deleted meanwhile would hide another
            async for model in self._registry.models():
                if model.workspace in new:
                    found.update(_aliases_of(model))
        async with self._unit_of_work() as work:
            known = await work.history.latest()
        is_whole = True
        new_keys = sorted(found.keys() - known.keys())  # sorted: whoever locks several does so in one order
        for start in range(0, len(new_keys), AT_A_TIME):
            is_whole = await self._import(new_keys[start : start + AT_A_TIME], found) and is_whole
        if not is_whole:
            return
        async with self._unit_of_work() as work:
            now = self._clock.now()
            for workspace in new:
                await work.drifts.note_first_look(workspace, at=now)
                count = sum(key.workspace == workspace for key in found)
                work.record(Entry(now, SYSTEM_WORKER, "aliases.first_seen", workspace, {"aliases": count}))
            await work.commit()
        _log.info("aliases_first_seen", workspaces=len(new), aliases=len(found))

    async def _import(self, keys: Sequence[AliasKey], found: Mapping[AliasKey, Sight]) -> bool:
        """Whether all of them could be written down."""
        now = self._clock.now()
        async with self._unit_of_work() as work:
            await work.promotions.lock_alias(*keys)
            being_moved = await self._being_moved(work)
            await work.history.add_first(
                [_held(key, found[key], cause="unattributed", at=now) for key in keys if key not in being_moved]
            )
            await work.commit()
        return being_moved.isdisjoint(keys)

    # Every look.

    async def _differences(self) -> Mapping[AliasKey, Sight]:
        """The aliases that MLflow shows otherwise than they are on record, and that have drifted; what it shows."""
        workspaces = frozenset(await self._registry.workspaces())
        async with self._unit_of_work() as work:
            policies = await work.policies.in_force()
            history = await work.history.latest()
            drifted = set(await work.drifts.open_aliases())
            ledger = {key: Sight(version, created_at) for key, version, created_at in await work.aliases.held()}
        unseen = {key for key, sight in history.items() if sight.version is not None} | ledger.keys() | drifted
        differ: dict[AliasKey, Sight] = {}

        def compare(key: AliasKey, seen: Sight, tags: Mapping[str, str] | None) -> None:
            is_on_record = seen.is_as(history.get(key, NOBODY)) and key not in drifted
            in_ledger = ledger.get(key)
            if is_on_record and in_ledger and not seen.is_as(in_ledger):
                # A policy may have left an alias alone since, and then it moves freely.
                is_on_record = governing(policies, key, tags) is None
            if not is_on_record:
                differ[key] = seen

        async for model in self._registry.models():
            for key, seen in _aliases_of(model):
                unseen.discard(key)
                compare(key, seen, model.tags)
        for key in unseen:
            # A workspace that MLflow does not show was not looked at.
            if key.workspace in workspaces:
                compare(key, NOBODY, None)
        return differ

    async def _look_again(self, workspace: str, name: str, suspects: Mapping[AliasKey, Sight]) -> None:
        async with self._unit_of_work() as work:
            before = {key: await self._on_record(work, key) for key in suspects}
        try:
            model = await self._registry.get_model(name, workspace)
        except NotFound:
            model = None
        if model and model.name != name:  # some databases find `Fraud` by `fraud`
            model = None
        for key, at_first in suspects.items():
            seen = Sight(model.aliases.get(key.alias), model.created_at) if model else NOBODY
            if not before[key].is_being_moved and seen.is_as(at_first):
                await self._conclude(key, seen, before[key], model.tags if model else None)

    async def _conclude(self, key: AliasKey, seen: Sight, record: _Record, tags: Mapping[str, str] | None) -> None:
        """Write down what was seen twice, unless our record has changed since before it was."""
        now = self._clock.now()
        async with self._unit_of_work() as work:
            await work.promotions.lock_alias(key)
            if await self._on_record(work, key) != record:
                return
            last = record.last
            if last and not seen.is_as(last.sight) and timedelta() <= now - last.since < self._settled:
                return
            if await work.history.add(_held(key, seen, cause="drift", at=now, last=last)):
                work.announce(alias_topic(key))
            policy = governing(await work.policies.in_force(), key, tags)
            drift = await self._judge(work, key, seen, record, policy)
            await work.commit()
        if drift and policy and policy.on_drift is OnDrift.RESTORE:
            await self._restore(drift, policy)

    async def _judge(
        self, work: UnitOfWork, key: AliasKey, seen: Sight, record: _Record, policy: Policy | None
    ) -> Drift | None:
        """Open, change or end the drift of an alias; the one that is open afterwards."""
        now, drift = self._clock.now(), await work.drifts.find_open(key)
        if policy is None:
            if drift:
                await end(work, drift, DriftEnd.UNPROTECTED, at=now)
            return None
        promotion_id, ledger = record.ledger or (None, None)
        wanted = expected(ledger, drift, record.last.sight if record.last else None)
        if drift and (drift.holding != promotion_id or not drift.expected.is_as(wanted)):
            # A promotion was applied; it ends the drift itself, unless it was begun before the drift was found.
            promotion = await work.promotions.get(promotion_id) if promotion_id else None
            await end(work, drift, DriftEnd.PROMOTION, at=now, promotion=promotion)
            drift = None
        if seen.is_as(wanted):
            if drift:
                await end(work, drift, DriftEnd.BY_ITSELF, at=now)
            return None
        if drift is None:
            drift = Drift(new_id("drf"), key, wanted, seen, found_at=now, holding=promotion_id)
            await work.drifts.add(drift)
            DRIFTS.inc()
        elif seen != drift.seen:
            # Moved once more: what stood in the way of restoring it may be gone.
            drift = replace(drift, seen=seen, attempts=0, next_attempt_at=None, obstacle=None)
            await work.drifts.save(drift)
        else:
            return drift
        tell_of(work, drift, "alias.drifted", at=now, policy=policy.name, on_drift=policy.on_drift.value)
        _log.warning("alias_drifted", drift=drift.id, alias=str(key), reason=drift.message, policy=policy.name)
        return drift

    # Putting it back.

    async def _restore(self, drift: Drift, policy: Policy) -> None:
        """Have a drifted alias put back. After each attempt that failed it waits longer for the next."""
        now, why = self._clock.now(), None
        if drift.restoring:
            async with self._unit_of_work() as work:
                attempted = await work.promotions.get(drift.restoring)
            if attempted.state in OPEN:
                return
            why = attempted.state_reason
        if drift.next_attempt_at and now < drift.next_attempt_at:
            await self._note(drift, why or drift.obstacle)
            return
        tried = replace(drift, attempts=drift.attempts + 1, next_attempt_at=next_attempt(drift.attempts + 1, now))
        try:
            if drift.holding:
                tried = await self._ask_for_restoration(tried, policy)
            elif drift.expected.version is None:
                await self._take_away(drift)
                return
            else:
                raise NotFound(f"No promotion put version {drift.expected.version} there: a person has to decide.")
        except Unavailable:
            raise
        except CountersignError as refusal:
            why = refusal.message
        await self._note(tried, why)

    async def _ask_for_restoration(self, drift: Drift, policy: Policy) -> Drift:
        """Raises ``CountersignError``: what holds the alias by our ledger is not there any more, or is other bytes."""
        assert drift.holding is not None  # asked by the caller
        async with self._unit_of_work() as work:
            holding = await work.promotions.get(drift.holding)
        if holding.state is State.ROLLING_OUT:
            raise NotFound(f"Promotion {holding.id} is still being rolled out; the alias is restored afterwards.")
        if holding.state is State.FAILED and holding.policy.targets:
            # To restore is to deploy as well, all at once: what its targets did not take, or its gates refused.
            raise NotFound(f"Promotion {holding.id} failed: a person has to decide what {holding.alias} shall be.")
        promotion = await self._promotions.restore(holding, policy, reason=f"drift {drift.id}: {drift.message}")
        return replace(drift, restoring=promotion.id)

    async def _take_away(self, drift: Drift) -> None:
        """Nobody should hold the alias: it is deleted.

        The one place where MLflow is asked while the alias is locked, so that no promotion begins to move it meanwhile.
        """
        key, now = drift.key, self._clock.now()
        async with self._unit_of_work() as work:
            await work.promotions.lock_alias(key)
            record, present = await self._on_record(work, key), await work.drifts.find_open(key)
            if record.is_being_moved or record.ledger or present != drift:
                return
            model = await self._registry.get_model(key.model, key.workspace)
            if model.name != key.model or Sight(model.aliases.get(key.alias), model.created_at) != drift.seen:
                return
            await self._registry.delete_alias(key.model, key.alias, key.workspace)
            gone = _held(key, Sight(None, model.created_at), cause="restored", at=now)
            await work.history.add(gone.by(SYSTEM_WORKER.id, SYSTEM_WORKER.name))
            known = {"cause": "restored", "from_version": drift.seen.version, "by": SYSTEM_WORKER.name}
            emit(work, EventType.ALIAS_MOVED, subject=str(key), key=key, at=now, known=known)
            await end(work, drift, DriftEnd.RESTORED, at=now)
            await work.commit()

    async def _note(self, drift: Drift, why: str | None) -> None:
        """Keep how an attempt ended; what stands in the way is told once."""
        async with self._unit_of_work() as work:
            await work.promotions.lock_alias(drift.key)
            present = await work.drifts.find_open(drift.key)
            if present is None or present.id != drift.id:
                return
            after = replace(drift, obstacle=why)
            if after == present:
                return
            await work.drifts.save(after)
            if why and why != present.obstacle:
                tell_of(work, after, "alias.not_restored", at=self._clock.now(), reason=why)
                _log.warning("alias_not_restored", drift=drift.id, alias=str(drift.key), reason=why)
            await work.commit()

    # What is on record.

    async def _on_record(self, work: UnitOfWork, key: AliasKey) -> _Record:
        holder = await work.aliases.get(key)
        ledger = None
        if holder:
            promotion = await work.promotions.get(holder.promotion_id)
            ledger = (promotion.id, Sight(holder.version, promotion.model_created_at))
        return _Record(ledger, await work.history.last(key), await self._is_being_moved(work, key))

    async def _being_moved(self, work: UnitOfWork) -> frozenset[AliasKey]:
        """All aliases that promotions are moving."""
        any_time = self._clock.now() + timedelta(days=1)
        applying = await work.promotions.unsettled([State.APPLYING], untouched_since=any_time)
        previous = [replace(each.key, alias=each.policy.companions.previous or each.alias) for each in applying]
        return frozenset([*(each.key for each in applying), *previous])

    @staticmethod
    async def _is_being_moved(work: UnitOfWork, key: AliasKey) -> bool:
        """By a promotion of its own, or of the alias that it moves together with."""
        applying = await work.promotions.being_applied(key.workspace, key.model)
        return any(key.alias in {each.alias, each.policy.companions.previous} for each in applying)


def _aliases_of(model: RegisteredModel) -> Iterator[tuple[AliasKey, Sight]]:
    for alias, version in model.aliases.items():
        yield AliasKey(model.workspace, model.name, alias), Sight(version, model.created_at)


def _held(key: AliasKey, seen: Sight, *, cause: str, at: datetime, last: Held | None = None) -> Held:
    created_at = seen.model_created_at
    if created_at is None:
        created_at = last.model_created_at if last else 0
    return Held(key, seen.version, since=at, cause=cause, model_created_at=created_at)
