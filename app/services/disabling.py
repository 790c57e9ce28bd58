"""What ends with a delivery that never arrived: an endpoint that is disabled, a rollout that has failed."""

from __future__ import annotations

from datetime import datetime

import structlog

from app.adapters.postgres.delivery_lanes import Result
from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import SYSTEM_WORKER, Entry
from app.domain.deliveries import RETRYABLE, Attempt, Delivery, Receiver, ReceiverKind
from app.domain.endpoints import ReceiverState
from app.domain.errors import NotFound
from app.domain.events import EventType
from app.domain.phases import Reason
from app.domain.promotions import AliasKey
from app.domain.receiver_health import DISABLED_AFTER, is_to_be_disabled
from app.ports import Clock
from app.services.deployments import Deployments
from app.services.recording import UnitOfWorkFactory, emit

_log = structlog.stdlib.get_logger(__name__)

GONE_REASON = "it answered 410 Gone"


class Disabling:
    def __init__(self, unit_of_work: UnitOfWorkFactory, deployments: Deployments, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._deployments = deployments
        self._clock = clock

    async def consider(self, receiver: Receiver, *, is_gone: bool, failing_since: datetime | None) -> bool:
        """Disable a receiver that said that it is gone, or an endpoint that took nothing for days; whether it was.

        What is pending for it ends with it; what is being sent, when whoever sends it finds that (``Dispatcher``).
        """
        now = self._clock.now()
        if receiver.kind is ReceiverKind.TARGET:
            # A target that is away fails rollouts, each at its deadline: somebody hears of it.
            return is_gone and await self._disable_target(receiver, at=now)
        if not is_gone and not is_to_be_disabled(failing_since, now):
            return False
        async with self._unit_of_work() as work:
            try:
                stored = await work.endpoints.get(receiver.name, for_update=True)
            except NotFound:
                return True
            if stored.state is not ReceiverState.ACTIVE:
                return True
            since = stored.failing_since
            if not is_gone and (
                since is None
                or not is_to_be_disabled(since, now)
                or await work.delivery_lanes.has_delivered(receiver, since=since)
                or await self._days_of_failure(work, receiver, now) < DISABLED_AFTER.days
            ):
                # Another process has reached it, or it was not tried: nobody sent, or the clock was put forward.
                return False
            reason = GONE_REASON if is_gone else f"it took nothing since {since:%Y-%m-%d %H:%M} UTC"
            await work.endpoints.set_state(
                receiver.name, ReceiverState.DISABLED, reason=reason, failing_since=stored.failing_since
            )
            work.record(Entry(now, SYSTEM_WORKER, "endpoint.disabled", receiver.name, {"reason": reason}))
            await work.deliveries.abandon(receiver, at=now)
            known = {"endpoint": receiver.name, "reason": reason, "by": SYSTEM_WORKER.name}
            key = AliasKey("", "", "")
            emit(work, EventType.ENDPOINT_DISABLED, subject=receiver.name, key=key, at=now, known=known)
            await work.commit()
        _log.warning("endpoint_disabled", endpoint=receiver.name, reason=reason)
        return True

    @staticmethod
    async def _days_of_failure(work: UnitOfWork, receiver: Receiver, now: datetime) -> int:
        return await work.delivery_lanes.days_of_failure(receiver, since=now - DISABLED_AFTER, until=now)

    async def _disable_target(self, target: Receiver, *, at: datetime) -> bool:
        async with self._unit_of_work() as work:
            stored = await work.targets.stored(target.name, for_update=True)
            if stored.state is ReceiverState.ACTIVE:
                await work.targets.set_state(target.name, ReceiverState.DISABLED, reason=GONE_REASON)
                work.record(Entry(at, SYSTEM_WORKER, "target.disabled", target.name, {"reason": GONE_REASON}))
                known = {"endpoint": str(target), "reason": GONE_REASON, "by": SYSTEM_WORKER.name}
                key = AliasKey("", "", "")
                emit(work, EventType.ENDPOINT_DISABLED, subject=str(target), key=key, at=at, known=known)
                await work.commit()
        return True

    async def give_up(self, delivery: Delivery, attempt: Attempt | None) -> None:
        """Write down that a call to a target is dead, and that its rollout has failed with it."""
        if attempt is None:
            reason, why = Reason.CALL_REFUSED, "the target is disabled, or there is none of its name any more"
        else:
            is_refused = attempt.status is not None and attempt.status < 500 and attempt.status not in RETRYABLE
            reason = Reason.CALL_REFUSED if is_refused else Reason.UNREACHABLE
            answer = f"answered {attempt.status}: {attempt.response[:300]}" if attempt.status else f"{attempt.error}"
            why = f"the deployer {answer}"
        async with self._unit_of_work() as work:
            if not await work.delivery_lanes.settle([Result(delivery, attempt)]):
                return
            await self._deployments.give_up(
                work,
                delivery.deployment_id or "",
                generation=delivery.generation or 0,
                reason=reason,
                message=why,
            )
            await work.commit()
