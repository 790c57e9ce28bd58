"""A model whose targets are scripted: a test says what each reports, and when; a worker does the rest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from app.domain.deployments import Deployment, Report, Serving
from app.domain.phases import Phase, Reason
from app.domain.promotions import AliasKey, Filter, Promotion, State
from app.domain.rolling_out import Order, Progress
from tests.governing import Court

CANARY = {"strategy": "canary", "steps": [{"weight": 10, "hold": "5m"}, {"weight": 50, "hold": "5m"}]}
DARK = {"strategy": "dark", "steps": [{"weight": 0, "hold": "1m"}]}


@dataclass
class Fleet:
    """A model, its policy, and targets that report what a test says."""

    court: Court
    model: str
    targets: tuple[str, ...]
    _sequence: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    async def policy(self, **document: Any) -> None:
        document = {"autoApprove": True, "approvals": [], "targets": list(self.targets), **document}
        await self.court.policy(models=self.model, **document)

    async def begin(self, version: str, **asked: Any) -> Promotion:
        """A promotion whose targets were called."""
        return await self.work(await self.court.ask(self.model, version, **asked))

    async def work(self, promotion: Promotion) -> Promotion:
        """Have a worker do everything that is to be done now, for it and for what came of it."""
        before: list[Promotion] = []
        while (present := await self.all()) != before:
            before = present
            for each in present:
                if each.state in {State.APPROVED, State.APPLYING}:
                    await self.court.worker.advancing.advance(each.id)
                else:
                    await self.court.worker.going_back.advance(each.id)
        return await self.court.get(promotion)

    async def all(self) -> list[Promotion]:
        """Those of which something may be left to do."""
        states = (State.APPROVED, State.APPLYING, State.ROLLING_OUT, State.SUPERSEDED, State.STALE, State.FAILED)
        async with self.court.database.unit_of_work() as work:
            return [*await work.promotions.page(Filter(model=self.model, states=states))]

    async def deployments(self) -> dict[str, Deployment]:
        async with self.court.database.unit_of_work() as work:
            return {each.target: each for each in await work.deployments.find(model=self.model)}

    async def calls(self) -> dict[str, tuple[str, str, int, str | None]]:
        """What each target was called with last: action, version, weight, and what gets the rest."""
        return {
            name: (each.action.value, each.version, each.weight, each.stable.version if each.stable else None)
            for name, each in (await self.deployments()).items()
        }

    async def report(
        self,
        phase: Phase = Phase.READY,
        *among: str,
        reason: Reason = Reason.NONE,
        message: str = "",
        serving: tuple[Serving, ...] = (),
    ) -> None:
        """Targets (all, or of those ``among``) say how the generation is that they were called with last."""
        for name, each in (await self.deployments()).items():
            if not among or name in among:
                said = Report(each.generation, each.generation, next(self._sequence), phase, reason, message, serving)
                await self.court.gateway.services.deployments.report(each.id, said)

    async def fail(self, *among: str) -> None:
        await self.report(Phase.FAILED, *among, reason=Reason.MODEL_LOAD_FAILED, message="no module named spam")

    async def ready(self, promotion: Promotion) -> Promotion:
        await self.report()
        return await self.work(promotion)

    async def later(self, promotion: Promotion, minutes: float = 5) -> Promotion:
        """The same after so long."""
        self.court.clock.ahead += timedelta(minutes=minutes, seconds=1)
        return await self.work(promotion)

    async def live(self, version: str, **asked: Any) -> Promotion:
        """A promotion that went all the way."""
        promotion = await self.begin(version, **asked)
        for _ in range(8):
            if promotion.state is State.LIVE:
                return promotion
            await self.report()
            promotion = await self.later(promotion)
        raise AssertionError((promotion.state, promotion.state_reason))

    async def progress(self, promotion: Promotion) -> Progress:
        async with self.court.database.unit_of_work() as work:
            return await work.rollouts.get(promotion.id)

    async def order(self, promotion: Promotion, order: Order, **how: Any) -> Promotion:
        by = how.pop("by", self.court.bob)
        followed = await self.court.gateway.services.rollouts.order(by, promotion.id, order, **how)
        return followed.promotion

    async def told(self, promotion: Promotion) -> list[str]:
        return [str(each["type"]) for each in await self.court.events(promotion)]

    def holder(self) -> str | None:
        return self.court.mlflow.holder(self.model)

    async def check_record(self, version: str | None) -> None:
        """MLflow, the ledger and the history say the same of who holds the alias."""
        key = AliasKey("default", self.model, "production")
        async with self.court.database.unit_of_work() as work:
            holder, held = await work.aliases.get(key), await work.history.last(key)
        assert self.holder() == version
        assert (holder.version if holder else None) == version
        assert (held.version if held else None) == version
