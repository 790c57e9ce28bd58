"""Runs jobs: apply promotions, deliver webhooks, and sweep up what lost its job. Any number may run at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine

import structlog
from procrastinate import App, JobContext
from procrastinate.exceptions import ConnectorException
from prometheus_client import start_http_server

from app.adapters.postgres.queue import (
    DEAD_AFTER_S,
    HEARTBEAT_S,
    KeepTrying,
    create_queue,
    rescue_jobs_of_dead_workers,
)
from app.bootstrap import WorkerServices, open_worker
from app.domain.errors import Unavailable
from app.settings import Settings
from app.telemetry import DELIVERIES, DRIFTS_OPEN, JOBS, PROMOTIONS, RECONCILED_AT

_log = structlog.stdlib.get_logger(__name__)

CONCURRENCY = 8
GRACE_S = 10.0
_MINUTE = 60


async def run_worker(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; then finish what was begun, for a few seconds.

    A worker does not outlive its database: whoever looks after processes starts it again.

    Raises:
        Unavailable: the database does not answer, or not any more.
    """
    if settings.worker_metrics_port:
        start_http_server(settings.worker_metrics_port, addr=settings.worker_metrics_host)
    queue = create_queue(settings.database_url.get_secret_value())
    async with open_worker(settings) as services:
        await services.database.check_alive()
        _declare_tasks(queue, services)
        _declare_looks(queue, services, reconcile_s=settings.reconcile_s)
        async with queue.open_async():
            _log.info("worker_ready", concurrency=CONCURRENCY)
            await _until_asked_to_stop(
                queue.run_worker_async(
                    name="countersign",
                    concurrency=CONCURRENCY,
                    delete_jobs="successful",
                    fetch_job_polling_interval=2.0,
                    install_signal_handlers=False,
                    shutdown_graceful_timeout=GRACE_S,
                    update_heartbeat_interval=HEARTBEAT_S,
                    stalled_worker_timeout=DEAD_AFTER_S * 2,
                )
            )


async def _until_asked_to_stop(working: Coroutine[object, object, None]) -> None:
    """The queue also ends, as if all were well, when its connections break. That must not look like success."""
    task, loop = asyncio.create_task(working), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    lost = Unavailable("The database went away, so the worker ends. It goes on where it was when it is started again.")
    try:
        await task
    except asyncio.CancelledError:
        return
    except ConnectorException as error:
        raise lost from error
    raise lost


def _declare_tasks(queue: App, services: WorkerServices) -> None:
    """What is queued for one promotion or delivery."""

    @queue.task(name="advance_promotion", retry=KeepTrying(), pass_context=True)
    async def advance_promotion(context: JobContext, promotion_id: str) -> None:
        await _counted(context, lambda: services.advancing.advance(promotion_id), promotion=promotion_id)

    @queue.task(name="deliver", retry=KeepTrying(), pass_context=True)
    async def deliver(context: JobContext, delivery_id: str) -> None:
        async def send() -> None:
            attempt = await services.deliveries.attempt(delivery_id)
            if attempt:
                outcome = str(attempt.status) if attempt.status else "no answer"
                DELIVERIES.labels(outcome=outcome).inc()
                _log.info("delivery_attempted", delivery=delivery_id, attempt=attempt.number, outcome=outcome)

        await _counted(context, send, delivery=delivery_id)


def _declare_looks(queue: App, services: WorkerServices, *, reconcile_s: int) -> None:
    """What is done again and again, by one of any number of workers."""

    @queue.periodic(cron="* * * * * */3")  # the sixth field, the last, is seconds
    @queue.task(name="sweep", queueing_lock="sweep", pass_context=True)
    async def sweep(context: JobContext, timestamp: int) -> None:  # noqa: ARG001  # the queue passes it
        async def all_of_it() -> None:
            if rescued := await rescue_jobs_of_dead_workers(queue):
                _log.warning("jobs_rescued", jobs=rescued)
            await services.sweeping.sweep()
            for state, count in (await services.sweeping.waiting()).items():
                PROMOTIONS.labels(state=state.value).set(count)
            DRIFTS_OPEN.set(await services.reconciling.open_drifts())

        await _counted(context, all_of_it)

    # A worker that starts does what was due last, up to ten minutes ago: so it looks at once. The lock lets one of any
    # number of workers look at a time.
    @queue.periodic(cron=_every(reconcile_s))
    @queue.task(name="reconcile", queueing_lock="reconcile", lock="reconcile", pass_context=True)
    async def reconcile(context: JobContext, timestamp: int) -> None:  # noqa: ARG001  # the queue passes it
        async def look() -> None:
            try:
                await services.reconciling.reconcile()
            except Unavailable as error:
                # The next look is soon, and nothing was concluded from what was not seen.
                _log.warning("reconciling_skipped", reason=error.message)
            else:
                RECONCILED_AT.set_to_current_time()

        await _counted(context, look)

    @queue.periodic(cron="*/5 * * * *")
    @queue.task(name="remove_expired", queueing_lock="remove_expired", pass_context=True)
    async def remove_expired(context: JobContext, timestamp: int) -> None:  # noqa: ARG001  # the queue passes it
        await _counted(context, services.sweeping.remove_expired)


def _every(seconds: int) -> str:
    """A cron expression for ``COUNTERSIGN_RECONCILE_S``."""
    return f"* * * * * */{seconds}" if seconds < _MINUTE else f"*/{seconds // _MINUTE} * * * *"


async def _counted(context: JobContext, work: Callable[[], Awaitable[None]], **named: str) -> None:
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(job=context.job.id, task=context.job.task_name, **named)
    try:
        await work()
    except Unavailable as error:
        JOBS.labels(task=context.job.task_name, outcome="later").inc()
        _log.warning("job_waits", reason=error.message)
        raise
    except asyncio.CancelledError:
        raise
    except Exception:
        JOBS.labels(task=context.job.task_name, outcome="broken").inc()
        _log.exception("job_broke")
        raise
    JOBS.labels(task=context.job.task_name, outcome="done").inc()
