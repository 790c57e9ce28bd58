"""Health checks: which of MLflow's workers are up, and which hold requests without getting anywhere.

A worker that cannot be reached is asked for ``/health`` until it answers. One that holds requests and has begun no
answer for a while is asked something that needs a thread and a database connection, as those requests do: ``/health``
answers while MLflow waits for its connection pool (measured on 3.17). Only if that goes unanswered too is the worker
taken out; a slow query is no reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic

import structlog

from app.domain.errors import UpstreamUnavailable
from app.domain.routes import warning_about
from app.proxy.admission import Admission, Worker

_log = structlog.stdlib.get_logger(__name__)

LIVENESS = "/health"
VERSION = "/version"
PROGRESS = "/api/2.0/mlflow/experiments/search?max_results=1"


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds between two looks, without progress before a worker is asked, and for its answer."""

    interval_s: float = 1
    idle_s: float = 5
    stall_s: float = 20
    answer_s: float = 5


class Watch:
    """Looks after the workers until it is closed.

    Args:
        admission: whose workers are watched. headers: by which MLflow knows the gateway.
        patience: how often, and how long.
    """

    def __init__(
        self,
        admission: Admission,
        *,
        headers: Callable[[], Sequence[tuple[str, str]]] = tuple,
        patience: Patience | None = None,
    ) -> None:
        self._admission = admission
        self._headers = headers
        self._patience = patience or Patience()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def is_running(self) -> bool:
        return bool(self._tasks)

    def start(self) -> None:
        """Begin, in the running loop."""
        self._tasks = [asyncio.create_task(self._look_after(worker)) for worker in self._admission.workers]

    async def close(self) -> None:
        """End, and wait for the end."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task

    async def _look_after(self, worker: Worker) -> None:
        stalled = False
        await self._look_at_version(worker)
        while True:
            await asyncio.sleep(self._patience.interval_s)
            try:
                stalled = await self._look(worker, stalled=stalled)
            except Exception:  # noqa: BLE001 - whoever watches must not fall asleep
                _log.exception("upstream_watch_failed", upstream=worker.upstream.url)

    async def _look(self, worker: Worker, *, stalled: bool) -> bool:
        """Whether the worker is out because it stalled."""
        if not worker.is_up:
            if await self._answers(worker, PROGRESS if stalled else LIVENESS):
                self._admission.put_back(worker)
                await self._look_at_version(worker)
                return False
            return stalled
        quiet_s = monotonic() - worker.moved_at
        if worker.busy and quiet_s > self._patience.stall_s:
            if await self._answers(worker, PROGRESS):
                worker.moved_at = monotonic()
                return False
            if worker.busy and monotonic() - worker.moved_at > self._patience.stall_s:
                self._admission.take_out(worker, "stalled")
                return True
        elif not worker.busy and quiet_s > self._patience.idle_s:
            if await self._answers(worker, LIVENESS):
                worker.moved_at = monotonic()
            else:
                self._admission.take_out(worker, "unreachable")
        return False

    async def _answers(self, worker: Worker, target: str) -> bool:
        try:
            status, _ = await self._probe(worker, target)
        except UpstreamUnavailable:
            return False
        return status < 500

    async def _look_at_version(self, worker: Worker) -> None:
        """Say so once if its routes are not those that the table describes."""
        try:
            status, version = await self._probe(worker, VERSION)
        except UpstreamUnavailable:
            return
        if status == 200 and (warning := warning_about(version)):
            _log.warning("upstream_version", upstream=worker.upstream.url, warning=warning)

    async def _probe(self, worker: Worker, target: str) -> tuple[int, str]:
        return await worker.upstream.probe(target, headers=self._headers(), timeout_s=self._patience.answer_s)
