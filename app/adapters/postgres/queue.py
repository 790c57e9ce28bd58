"""The job queue as the worker sees it (ADR 0004)."""

from __future__ import annotations

from procrastinate import App, BaseRetryStrategy, PsycopgConnector, RetryDecision
from procrastinate.exceptions import UniqueViolation
from procrastinate.jobs import Job, Status

from app.domain.errors import Unavailable

HEARTBEAT_S = 2.0
DEAD_AFTER_S = 6.0
"""A worker that has not been heard of for so long is dead, and its jobs are others'."""


class KeepTrying(BaseRetryStrategy):
    """Every job is tried again until it is done: soon when a part was away, less often when something broke."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision:
        longest = 5 if isinstance(exception, Unavailable) else 60
        return RetryDecision(retry_in={"seconds": min(longest, 2 ** min(job.attempts, 6))})


def create_queue(database_url: str) -> App:
    """A queue that connects when it is opened."""
    # The time-out is for a connection: a worker whose database went away says goodbye to it, and must not take long.
    return App(connector=PsycopgConnector(conninfo=database_url, min_size=1, max_size=6, timeout=10))


async def rescue_jobs_of_dead_workers(queue: App) -> int:
    """Give the jobs of workers that were killed back to the queue; returns how many."""
    rescued = 0
    for job in await queue.job_manager.get_stalled_jobs(seconds_since_heartbeat=DEAD_AFTER_S):
        try:
            await queue.job_manager.retry_job(job)
        except UniqueViolation:
            # The same was queued again meanwhile (it has a queueing lock): one of them is enough.
            await queue.job_manager.finish_job(job, status=Status.FAILED, delete_job=True)
        rescued += 1
    return rescued
