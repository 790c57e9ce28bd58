"""Asks targets what they serve, and finds where that is not what they are to serve, or not what is approved (ADR 0035).

A round asks after every deployment that was not heard of since the last one, many targets at a time and few questions
to each; a target that does not answer is not waited for again in the same round. An answer is a report, and goes the
way of reports. No transaction is open while a target is asked; a round may be repeated, and may be the last before a
crash.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import SYSTEM_WORKER, Entry
from app.domain.deployments import Deployment, Drift, Filter, Target, observed
from app.domain.endpoints import ReceiverState
from app.domain.errors import InvalidConfiguration, InvalidInput
from app.domain.inventory import (
    UNSETTLED_AFTER,
    Meaning,
    Standing,
    is_refused,
    judged,
    meaning_of,
    pause_before_calling_again,
)
from app.ports import Answered, Clock, Question, SecretStore, Signatures, TargetAsker
from app.services.approved import Approved, approved
from app.services.calling import Calling
from app.services.deployments import Deployments, tell_drift
from app.services.identifiers import new_id
from app.services.recording import UnitOfWorkFactory
from app.services.statuses import read_status
from app.telemetry import DEPLOYMENTS_DRIFTED

_log = structlog.stdlib.get_logger(__name__)

AT_A_TIME = 200
"""Deployments that are asked after before it is written down what was answered."""
ALL_TOGETHER = 64
TO_ONE_TARGET = 4
MOST_FAILURES = 2
"""After which a target is not asked again in the same round."""
JUDGED_AT_ONCE = 1000
WRITTEN_AT_ONCE = 50
"""Drifts of one transaction."""
MOST_TARGETS = 10_000
NO_SUCH_TARGET = "the target is disabled, or there is none of its name any more"
LOST = "the target did not know of it any more, and was called again"


@dataclass(slots=True)
class _Round:
    """One time that targets are asked."""

    at: datetime
    targets: Mapping[str, Target]
    all_together: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(ALL_TOGETHER))
    turns: defaultdict[str, asyncio.Semaphore] = field(
        default_factory=lambda: defaultdict(lambda: asyncio.Semaphore(TO_ONE_TARGET))
    )
    failures: Counter[str] = field(default_factory=Counter)
    away: dict[str, str] = field(default_factory=dict)
    """Why each target is not asked any more that did not answer."""


@dataclass(frozen=True, slots=True)
class _Looked:
    """What came of one question. ``obstacle``: why it told nothing; none: it is there."""

    is_heard: bool = False
    obstacle: str | None = None


class LookingAtTargets:
    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        asker: TargetAsker,
        secrets: SecretStore,
        signatures: Signatures,
        deployments: Deployments,
        calling: Calling,
        clock: Clock,
        *,
        every: timedelta,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._asker = asker
        self._secrets = secrets
        self._signatures = signatures
        self._deployments = deployments
        self._calling = calling
        self._clock = clock
        self._every = every

    async def look(self) -> None:
        """Ask after what is due, then judge all deployments.

        Raises:
            Unavailable: the database does not answer; what was found until then is written.
        """
        this = await self._begin()
        # Half a minute early rather than a whole round late: the queue's own rhythm is not exact.
        slack = min(self._every, UNSETTLED_AFTER) / 2
        while True:
            async with self._unit_of_work() as work:
                due = await work.deployments.to_look_at(
                    looked_before=this.at - self._every + slack,
                    open_unheard_since=this.at - UNSETTLED_AFTER + slack,
                    limit=AT_A_TIME,
                )
            if not due:
                break
            await self._ask_after(due, this)
        await self.judge()

    async def ask_after(self, ids: Sequence[str]) -> None:
        """Ask after these deployments at once: their time is over, and a report may have been lost."""
        if not ids:
            return
        async with self._unit_of_work() as work:
            deployments = [await work.deployments.get(each) for each in ids]
        await self._ask_after(deployments, await self._begin())

    async def judge(self) -> None:
        """Find what has drifted, and what has not any more; write it down, and say it."""
        counts: Counter[Drift] = Counter()
        after: str | None = None
        while True:
            async with self._unit_of_work() as work:
                found = await work.deployments.page(Filter(), after=after, limit=JUDGED_AT_ONCE)
                known = await approved(work, self._clock, models={(each.workspace, each.model) for each in found})
            now = self._clock.now()
            judgements = [judged(each, Standing(now, known.of(each))) for each in found]
            counts.update(each.drift for each in judgements if each.drift)
            changed = [
                each.id for each, before in zip(judgements, found, strict=True) if each.drift is not before.drift
            ]
            for start in range(0, len(changed), WRITTEN_AT_ONCE):
                await self._keep_drifts(changed[start : start + WRITTEN_AT_ONCE], known)
            if len(found) < JUDGED_AT_ONCE:
                break
            after = found[-1].id
        for drift in Drift:
            DEPLOYMENTS_DRIFTED.labels(drift=drift.value).set(counts[drift])

    async def _begin(self) -> _Round:
        async with self._unit_of_work() as work:
            stored = await work.targets.page(after="", limit=MOST_TARGETS)
        active = {each.target.name: each.target for each in stored if each.state is ReceiverState.ACTIVE}
        return _Round(self._clock.now(), active)

    # Asking.

    async def _ask_after(self, deployments: Sequence[Deployment], this: _Round) -> None:
        """Ask, and write down what was answered: all of them first, then what broke."""
        ends = await asyncio.gather(*(self._ask_in_turn(each, this) for each in deployments), return_exceptions=True)
        groups: defaultdict[_Looked, list[str]] = defaultdict(list)
        broken = [end for end in ends if isinstance(end, BaseException)]
        for deployment, end in zip(deployments, ends, strict=True):
            # Also what broke was looked at: it must not be due again at once, for ever.
            groups[end if isinstance(end, _Looked) else _Looked(obstacle=deployment.obstacle)].append(deployment.id)
        async with self._unit_of_work() as work:
            for looked, ids in groups.items():
                await work.deployments.looked(
                    sorted(ids), at=this.at, is_heard=looked.is_heard, obstacle=looked.obstacle
                )
            await work.commit()
        if broken:
            raise broken[0]

    async def _ask_in_turn(self, deployment: Deployment, this: _Round) -> _Looked:
        target = this.targets.get(deployment.target)
        if target is None:
            return _Looked(obstacle=NO_SUCH_TARGET)
        async with AsyncExitStack() as turn:
            await turn.enter_async_context(this.turns[target.name])
            if why := this.away.get(target.name):
                return _Looked(obstacle=why)
            await turn.enter_async_context(this.all_together)
            question_id = new_id("msg")
            answer = await self._asked(target, deployment, question_id)
        meaning = meaning_of(answer.status, answer.content_type) if not answer.error else Meaning.AWAY
        if meaning is Meaning.TOLD and answer.headers and not self._is_signed(target, answer, question_id):
            return _Looked(obstacle="the signature of its answer does not verify")
        if meaning is Meaning.TOLD and not (answer.headers or answer.is_undisturbed):
            _log.warning("answer_not_believed", target=target.name, reason="it is neither signed nor encrypted")
            return _Looked()
        if meaning is Meaning.TOLD:
            return await self._take(deployment, answer)
        if meaning is Meaning.LOST:
            return await self._call_again(deployment)
        if meaning is Meaning.MUTE:
            return _Looked()
        why = answer.error or f"it answered {answer.status}"
        this.failures[target.name] += 1
        if answer.status is None and this.failures[target.name] >= MOST_FAILURES:
            this.away[target.name] = why
        return _Looked(obstacle=why)

    def _is_signed(self, target: Target, answer: Answered, question_id: str) -> bool:
        """By the target, as an answer to this question."""
        if answer.headers.get("webhook-id") != question_id:
            return False
        for reference in target.callback_secrets:
            try:
                secret = self._secrets.read(reference)
            except InvalidConfiguration as error:
                _log.warning("callback_secret_missing", reason=error.message)
                continue
            if self._signatures.verify(secret, answer.headers, answer.body):
                return True
        return False

    async def _asked(self, target: Target, deployment: Deployment, question_id: str) -> Answered:
        secrets, missing = [], ""
        for reference in target.secrets:
            try:
                secrets.append(self._secrets.read(reference))
            except InvalidConfiguration as error:
                missing = error.message
        if not secrets:
            return Answered(None, error=missing or "the target has no secret to sign with")
        question = Question(target.url, deployment.id, question_id, tuple(secrets), target.allowed_networks)
        return await self._asker.ask(question)

    async def _take(self, deployment: Deployment, answer: Answered) -> _Looked:
        """An answer is a report; one that says what is known already tells that the target is there."""
        try:
            report = read_status(answer.body, deployment_id=deployment.id)
        except InvalidInput as error:
            return _Looked(obstacle=f"its answer cannot be read: {error.message}"[:500])
        if observed(deployment, report, at=self._clock.now(), asked_after=deployment.sequence):
            await self._deployments.report(deployment.id, report, asked_after=deployment.sequence)
        return _Looked(is_heard=True)

    async def _call_again(self, seen: Deployment) -> _Looked:
        """The target has lost what it was told: it is told the same again, unless that is under way.

        What was known of its reports stays: that it counts anew is believed of a signed answer alone (``observed``).
        """
        async with self._unit_of_work() as work:
            present = await work.deployments.get(seen.id, for_update=True)
            if is_refused(present):
                return _Looked()  # it knows nothing of what it did not take
            if present.generation != seen.generation or not await self._is_due(work, present):
                return _Looked(obstacle=LOST)
            if not await self._calling.call_again(work, present):
                return _Looked(obstacle=LOST)
            if present.obstacle != LOST:  # it is said once, however long that goes on
                named = {"target": present.target, "model": present.resource, "generation": present.generation}
                work.record(Entry(self._clock.now(), SYSTEM_WORKER, "deployment.called_again", present.id, named))
            await work.commit()
        _log.warning("target_called_again", target=present.target, deployment=present.id)
        return _Looked(obstacle=LOST)

    async def _is_due(self, work: UnitOfWork, present: Deployment) -> bool:
        """Whether to call again what its target does not know of."""
        if await work.deliveries.is_being_called(present.target, present.id, lane=present.resource):
            return False
        called_at = await work.deliveries.last_called_at(present.target, present.id, lane=present.resource)
        return called_at is None or self._clock.now() - called_at >= pause_before_calling_again(present, called_at)

    # Judging.

    async def _keep_drifts(self, ids: Sequence[str], known: Approved) -> None:
        async with self._unit_of_work() as work:
            for deployment_id in sorted(ids):  # so that no two wait for each other
                await self._keep_drift(work, deployment_id, known)
            await work.commit()

    async def _keep_drift(self, work: UnitOfWork, deployment_id: str, known: Approved) -> None:
        now, before = self._clock.now(), await work.deployments.get(deployment_id, for_update=True)
        after = judged(before, Standing(now, known.of(before)))
        if after == before:
            return
        await work.deployments.save(after)
        tell_drift(work, before, after, at=now)
        log = _log.warning if after.drift else _log.info
        log("deployment_drift", deployment=after.id, target=after.target, model=after.resource, drift=after.drift)
