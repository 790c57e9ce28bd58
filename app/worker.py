"""Runs jobs, which apply promotions and sweep up what lost its job, and beside them sends what is to be sent.

Any number may run at once.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence

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
from app.bootstrap.worker import WorkerServices, open_worker
from app.domain.errors import Unavailable
from app.settings import Settings
from app.telemetry import (
    DELIVERIES_OLDEST_SECONDS,
    DELIVERIES_PENDING,
    DRIFTS_OPEN,
    JOBS,
    LOOKED_AT_TARGETS_AT,
    PROMOTIONS,
    RECONCILED_AT,
    VERIFIED_AT,
)

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
        _declare_measuring(queue, services)
        _declare_noticing(queue, services)
        _declare_verifying(queue, services, verify_s=settings.verify_s)
        _declare_looking_at_targets(queue, services, inventory_s=settings.inventory_s)
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
                ),
                beside=[services.dispatcher.run(), services.fanning_out.run()],
            )


async def _until_asked_to_stop(
    working: Coroutine[object, object, None], *, beside: Sequence[Coroutine[object, object, None]]
) -> None:
    """The queue also ends, as if all were well, when its connections break. That must not look like success.

    Args:
        working: the queue.
        beside: what goes on as long as it does, and is asked to stop together with it.
    """
    task, loop = asyncio.create_task(working), asyncio.get_running_loop()
    others = [asyncio.create_task(each) for each in beside]

    def stop() -> None:
        for each in (task, *others):
            each.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    lost = Unavailable("The database went away, so the worker ends. It goes on where it was when it is started again.")
    try:
        await task
    except asyncio.CancelledError:
        return
    except ConnectorException as error:
        raise lost from error
    finally:
        stop()
        await asyncio.wait(others)
    raise lost


def _declare_tasks(queue: App, services: WorkerServices) -> None:
    """What is queued for one promotion."""

    @queue.task(name="advance_promotion", retry=KeepTrying(), pass_context=True)
    async def advance_promotion(context: JobContext, promotion_id: str) -> None:
        await _counted(context, lambda: services.advancing.advance(promotion_id), promotion=promotion_id)

    @queue.task(name="advance_rollout", retry=KeepTrying(), pass_context=True)
    async def advance_rollout(context: JobContext, promotion_id: str) -> None:
        await _counted(context, lambda: services.going_back.advance(promotion_id), promotion=promotion_id)


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


def _declare_verifying(queue: App, services: WorkerServices, *, verify_s: int) -> None:
    """Whether what was approved is still there. Much is read by a job of its own, one of all workers' at a time."""

    @queue.periodic(cron=_every(verify_s))
    @queue.task(name="verify", queueing_lock="verify", lock="verify", pass_context=True)
    async def verify(context: JobContext, timestamp: int | None = None) -> None:  # noqa: ARG001  # the queue passes it
        async def look() -> None:
            try:
                await services.verifying.look()
            except Unavailable as error:
                _log.warning("verifying_skipped", reason=error.message)
            else:
                VERIFIED_AT.set_to_current_time()

        await _counted(context, look)

    @queue.task(name="read_versions", lock="read_versions", retry=KeepTrying(), pass_context=True)
    async def read_versions(context: JobContext) -> None:
        await _counted(context, services.verifying.read)


def _declare_looking_at_targets(queue: App, services: WorkerServices, *, inventory_s: int) -> None:
    """Asking targets what they serve. What is under way is asked after every minute, however rarely the rest is."""

    @queue.periodic(cron=_every(min(inventory_s, _MINUTE)))
    @queue.task(name="look_at_targets", queueing_lock="look_at_targets", lock="look_at_targets", pass_context=True)
    async def look_at_targets(context: JobContext, timestamp: int) -> None:  # noqa: ARG001  # the queue passes it
        async def look() -> None:
            try:
                await services.looking_at_targets.look()
            except Unavailable as error:
                _log.warning("looking_at_targets_skipped", reason=error.message)
            else:
                LOOKED_AT_TARGETS_AT.set_to_current_time()

        await _counted(context, look)


def _declare_noticing(queue: App, services: WorkerServices) -> None:
    """Looking for versions that were registered past the gateway."""

    @queue.periodic(cron="* * * * * */10")
    @queue.task(name="notice_versions", queueing_lock="notice_versions", lock="notice_versions", pass_context=True)
    async def notice_versions(context: JobContext, timestamp: int) -> None:  # noqa: ARG001  # the queue passes it
        async def look() -> None:
            try:
                await services.new_versions.look()
            except Unavailable as error:
                _log.warning("noticing_skipped", reason=error.message)

        await _counted(context, look)


def _declare_measuring(queue: App, services: WorkerServices) -> None:
    """How much waits to be sent."""

    @queue.periodic(cron="* * * * * */15")
    @queue.task(name="measure_backlog", queueing_lock="measure_backlog", pass_context=True)
    async def measure_backlog(context: JobContext, timestamp: int) -> None:  # noqa: ARG001  # the queue passes it
        async def measure() -> None:
            pending, oldest_s = await services.sweeping.undelivered()
            DELIVERIES_PENDING.set(pending)
            DELIVERIES_OLDEST_SECONDS.set(oldest_s)

        await _counted(context, measure)


def _every(seconds: int) -> str:
    """A cron expression for ``COUNTERSIGN_RECONCILE_S``, ``COUNTERSIGN_VERIFY_S`` and ``COUNTERSIGN_INVENTORY_S``."""
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
