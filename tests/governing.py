"""Gateway and worker in this process, on the real MLflow and a real database, with a clock that may move.

The worker does nothing by itself: a test says when it works (``Court.work``), so that every order of steps can be had.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import asyncpg

from app.adapters.postgres.unit_of_work import Database
from app.bootstrap.gateway import Gateway, open_gateway
from app.bootstrap.worker import WorkerServices, open_worker
from app.domain.access import Principal
from app.domain.grants import Access, applying_to, grants_of_roles
from app.domain.identity import Identity, PrincipalKind
from app.domain.policies import Policy, policy_from_document
from app.domain.promotions import Outcome, Promotion
from app.services.promotions import Promotions
from app.settings import Settings
from tests.door import MovableClock
from tests.issuer import Issuer
from tests.platform import MlflowServer, environment_for
from tests.telling import events_of

ROLES = {
    "requester": ["scientists"],
    "approver": ["approvers", "risk", "ml"],
    "responder": ["responders"],
    "administrator": ["administrators"],
    "viewer": ["viewers"],
}


@dataclass
class Court:
    """The services, and people who use them."""

    gateway: Gateway
    worker: WorkerServices
    database: Database
    mlflow: MlflowServer
    clock: MovableClock
    settings: Settings
    _names: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def promotions(self) -> Promotions:
        return self.gateway.services.promotions

    def person(self, name: str, *groups: str, kind: PrincipalKind = PrincipalKind.PERSON, **claims: str) -> Principal:
        """Somebody with the roles that their groups give them."""
        identity = Identity("https://idp.example", name, name.title(), kind, frozenset(groups), claims)
        grants = grants_of_roles(self.settings.roles)
        return Principal(identity, Access(applying_to(identity, grants), owner_id=identity.id))

    @property
    def ada(self) -> Principal:
        """Asks for promotions."""
        return self.person("ada", "scientists")

    @property
    def bob(self) -> Principal:
        """Approves."""
        return self.person("bob", "approvers", "ml")

    @property
    def cem(self) -> Principal:
        """Approves too."""
        return self.person("cem", "approvers", "risk")

    async def policy(self, **document: Any) -> Policy:
        """A new policy, or a revision of one, for one model alone."""
        document = {"kind": "Policy", "name": document["models"], "alias": "production", **document}
        if "approvals" not in document and not document.get("autoApprove"):
            document["approvals"] = [{"name": "a second person", "roles": ["approver"]}]
        async with self.database.unit_of_work() as work:
            added = await work.policies.add(policy_from_document(document, revision=0), at=self.clock.now(), by="test")
            await work.commit()
        return added.policy

    def model(self, versions: int = 2) -> str:
        """The name of a new model."""
        name = f"governed-{id(self):x}-{next(self._names)}"
        self.mlflow.register(name, versions=versions)
        return name

    def tag(self, model: str, version: str, **tags: str) -> None:
        """Tag a version, past the gateway."""
        for key, value in tags.items():
            tag = {"name": model, "version": version, "key": key, "value": value}
            self.mlflow.call("POST", "model-versions/set-tag", tag)

    def tags(self, model: str, version: str) -> dict[str, str]:
        found = self.mlflow.call("GET", "model-versions/get", {"name": model, "version": version})["model_version"]
        return {tag["key"]: tag["value"] for tag in found.get("tags", [])}

    def window(self, *, effect: str, hours: tuple[int, int]) -> dict[str, str]:
        """A window of every day, from and to so many hours from now."""
        starts = self.clock.now() + timedelta(hours=hours[0])
        return {
            "name": "daily",
            "effect": effect,
            "rule": "FREQ=DAILY",
            "starts": f"{starts:%Y-%m-%dT%H:%M}",
            "duration": f"{hours[1] - hours[0]}h",
            "timezone": "UTC",
        }

    async def ask(self, model: str, version: str = "1", *, by: Principal | None = None, **more: Any) -> Promotion:
        promotion, _ = await self.promotions.create(
            by or self.ada, model=model, alias=more.pop("alias", "production"), version=version, **more
        )
        return promotion

    async def approve(self, promotion: Promotion, by: Principal | None = None) -> Promotion:
        return await self.promotions.decide(by or self.bob, promotion.id, Outcome.APPROVE)

    async def get(self, promotion: Promotion) -> Promotion:
        async with self.database.unit_of_work() as work:
            return await work.promotions.get(promotion.id)

    async def work(self, promotion: Promotion) -> Promotion:
        """Have the worker do what is next for a promotion."""
        await self.worker.advancing.advance(promotion.id)
        return await self.get(promotion)

    async def promoted(self, model: str, version: str = "1", alias: str = "production") -> Promotion:
        """A promotion that was asked for, approved and applied."""
        asked = await self.ask(model, version, alias=alias)
        if asked.state.value == "pending":
            await self.approve(asked)
        done = await self.work(asked)
        assert done.state.value == "applied", (done.state, done.state_reason)
        return done

    async def audit(self, promotion: Promotion) -> list[str]:
        async with self.database.unit_of_work() as work:
            found = await work.audit.page(object_id=promotion.id, limit=500)
        return [str(entry.document["action"]) for entry in found]

    async def jobs(self, promotion: Promotion) -> int:
        """How many jobs wait for a worker."""
        connection = await asyncpg.connect(self.settings.database_url.get_secret_value())
        try:
            query = "SELECT count(*) FROM procrastinate_jobs WHERE lock = $1 AND status = 'todo'"
            return int(await connection.fetchval(query, f"promotion:{promotion.id}"))
        finally:
            await connection.close()

    async def events(self, promotion: Promotion) -> list[Mapping[str, object]]:
        async with self.database.unit_of_work() as work:
            found = await work.events.page(after=0, limit=10_000)
        return [
            {"type": each.event.type.value, **each.event.data} for each in found if each.event.subject == promotion.id
        ]


@asynccontextmanager
async def open_court(database_url: str, mlflow: MlflowServer, issuer: Issuer, **changed: str) -> AsyncIterator[Court]:
    """Args: changed: settings, as environment variables."""
    environment = environment_for(
        database_url=database_url, upstream_url=mlflow.url, artifacts=mlflow.artifacts, issuer=issuer
    )
    with patch.dict(os.environ, environment | {"COUNTERSIGN_ROLES": json.dumps(ROLES)} | changed):
        settings = Settings()
    clock = MovableClock()
    async with (
        open_gateway(settings, clock) as gateway,
        open_worker(settings, clock) as worker,
    ):
        yield Court(gateway, worker, worker.database, mlflow, clock, settings)
        # Whatever happened in these tests was told as it is written down.
        await events_of(worker.database)
