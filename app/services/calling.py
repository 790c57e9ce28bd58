"""Calls targets: what each is to serve is written down as its next generation, with the message that tells it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from app.adapters.postgres.unit_of_work import UnitOfWork
from app.domain.audit import SYSTEM_WORKER, Actor
from app.domain.deliveries import Cause, Delivery, Receiver, ReceiverKind
from app.domain.deployments import Deployment
from app.domain.events import DEPLOYMENT_REQUESTED, EventType, call_event, call_of
from app.domain.promotions import Promotion
from app.domain.rolling_out import Wanted
from app.ports import Clock
from app.services.identifiers import new_id
from app.services.recording import emit_deployment


class Calling:
    def __init__(self, clock: Clock, *, public_url: str) -> None:
        self._clock = clock
        self._public_url = public_url

    async def call(
        self,
        work: UnitOfWork,
        promotion: Promotion,
        wanted: Wanted,
        *,
        by: Actor = SYSTEM_WORKER,
        delivery_id: str | None = None,
    ) -> Deployment:
        """Count a target's generation up and write the message that tells it. Part of the caller's transaction.

        Whoever calls several does so in the order of their names, so that no two wait for each other; the promotion is
        locked before. What another promotion was having the target serve is over: its rollout is looked at.
        """
        now, target = self._clock.now(), await work.targets.get(wanted.target)
        found = await work.deployments.find(model=promotion.model, target=target.name, workspace=promotion.workspace)
        present = found[0] if found else None
        if present and present.is_open:
            # What it was to run before is settled by this: nobody reports on that generation any more.
            emit_deployment(work, EventType.DEPLOYMENT_SUPERSEDED, present, by, at=now)
        if present and present.promotion_id != promotion.id and await work.rollouts.is_open(present.promotion_id):
            await work.jobs.advance_rollout(present.promotion_id)
        deployment = await work.deployments.desire(
            new_id=new_id("dep"),
            target=target.name,
            workspace=promotion.workspace,
            model=promotion.model,
            version=wanted.bytes.version,
            uri=wanted.bytes.uri,
            digest=wanted.bytes.digest,
            promotion_id=promotion.id,
            at=now,
            action=wanted.action,
            weight=wanted.weight,
            stable=wanted.stable,
        )
        emit_deployment(work, EventType.DEPLOYMENT_DESIRED, deployment, by, at=now)
        call = call_of(
            source=self._public_url,
            deployment=deployment,
            promotion=promotion,
            previous=present,
            options=target.options,
            deadline_s=target.deadline_s,
        )
        # What is asked for of a generation never changes, so that whoever pulls it takes it for what was called.
        await work.deployments.keep_call(deployment, call)
        await self._send(work, deployment, call, delivery_id=delivery_id)
        # What a target is to serve resolves as it was approved, from now on (``postgres/resolutions.py``).
        work.forget_resolutions(workspace=promotion.workspace, model=promotion.model)
        return deployment

    async def call_again(self, work: UnitOfWork, deployment: Deployment) -> bool:
        """Send the call of the present generation once more, as its deployer has lost it; whether there is one.

        Part of the caller's transaction, with the deployment locked. A deployer that has it answers *unchanged*.
        """
        call = await work.deployments.call(deployment)
        if call is None:
            return False
        await self._send(work, deployment, call)
        return True

    async def _send(
        self, work: UnitOfWork, deployment: Deployment, call: Mapping[str, object], *, delivery_id: str | None = None
    ) -> None:
        now, message_id = self._clock.now(), new_id("evt")
        payload = call_event(event_id=message_id, source=self._public_url, deployment=deployment, call=call)
        delivery = Delivery(
            id=delivery_id or new_id("dlv"),
            receiver=Receiver(ReceiverKind.TARGET, deployment.target),
            lane=deployment.resource,
            message_id=message_id,
            event_type=DEPLOYMENT_REQUESTED,
            subject=f"{deployment.target}/{deployment.resource}",
            body=json.dumps(payload, ensure_ascii=False, separators=(",", ":")),
            cause=Cause.DEPLOYMENT,
            created_at=now,
            next_attempt_at=now,
            deployment_id=deployment.id,
            generation=deployment.generation,
        )
        await work.deliveries.add([delivery])
