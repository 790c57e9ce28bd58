"""Work for the worker, queued in the caller's transaction.

The queue is procrastinate's (ADR 0004). Its own client speaks psycopg and would queue on another connection, so the
job would be there without the state that caused it, or the state without the job. Its versioned SQL function is
called on ours instead.
"""

from __future__ import annotations

import json
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

_DEFER = text(
    """
    SELECT procrastinate_defer_jobs_v1(ARRAY[
        ROW('default', :task, 0, :lock, :queueing_lock, CAST(:args AS jsonb), :at)::procrastinate_job_to_defer_v1
    ])
    """
)

_IS_QUEUED = text("SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE lock = :lock AND status IN ('todo', 'doing'))")


class Jobs:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def advance_promotion(self, promotion_id: str, *, at: datetime | None = None) -> None:
        """Have the worker do whatever is next for a promotion. One at a time per promotion; too often does no harm."""
        await self._defer("advance_promotion", {"promotion_id": promotion_id}, lock=f"promotion:{promotion_id}", at=at)

    async def advance_rollout(self, promotion_id: str) -> None:
        """Have the worker look at a rollout now. One at a time per rollout; too often does no harm."""
        await self._defer("advance_rollout", {"promotion_id": promotion_id}, lock=f"rollout:{promotion_id}")

    async def verify(self) -> None:
        """Have the worker look at the versions that are due, now rather than at the next time."""
        await self._ensure_one("verify")

    async def read_versions(self) -> None:
        """Have the worker read the versions of which much is to be read."""
        await self._ensure_one("read_versions")

    async def _ensure_one(self, task: str) -> None:
        """Queue a task of which one runs at a time, unless it waits already."""
        try:
            async with self._connection.begin_nested():
                await self._defer(task, {}, lock=task, once=task)
        except IntegrityError:
            return

    async def _defer(
        self, task: str, args: dict[str, str], *, lock: str, at: datetime | None = None, once: str | None = None
    ) -> None:
        await self._connection.execute(
            _DEFER, {"task": task, "lock": lock, "queueing_lock": once, "args": json.dumps(args), "at": at}
        )

    async def ensure_advancing(self, promotion_id: str) -> None:
        """Queue a promotion unless there is a job for it: a net under whatever lost its job."""
        await self._ensure("advance_promotion", "promotion_id", promotion_id, lock=f"promotion:{promotion_id}")

    async def ensure_rolling_out(self, promotion_id: str) -> None:
        """The same net under a rollout."""
        await self._ensure("advance_rollout", "promotion_id", promotion_id, lock=f"rollout:{promotion_id}")

    async def _ensure(self, task: str, name: str, value: str, *, lock: str) -> None:
        if await self._connection.scalar(_IS_QUEUED, {"lock": lock}):
            # A second one would be tried behind each failed try of the first, and plan tries of its own.
            return
        try:
            async with self._connection.begin_nested():
                await self._defer(task, {name: value}, lock=lock, once=f"sweep:{lock}")
        except IntegrityError:
            # Another worker's sweep was faster.
            return
