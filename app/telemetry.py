"""Structured logs, request ids and our metrics."""

from __future__ import annotations

import itertools
import logging
import secrets
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

PROXY_REQUESTS = Counter(
    "countersign_proxy_requests_total", "Requests to MLflow's paths.", ["route_class", "decision", "status"]
)
PROXY_SECONDS = Histogram(
    "countersign_proxy_request_seconds", "Seconds per request to MLflow's paths.", ["route_class"]
)
ADMISSION_WAITING = Gauge("countersign_admission_waiting", "Requests that wait for a place at MLflow.", ["lane"])
ADMISSION_SECONDS = Histogram(
    "countersign_admission_wait_seconds", "Seconds that requests waited which had to.", ["lane"]
)
ADMISSION_REJECTIONS = Counter(
    "countersign_admission_rejections_total", "Requests that were not given a place at MLflow.", ["reason"]
)
UPSTREAM_IN_FLIGHT = Gauge(
    "countersign_upstream_in_flight", "Requests that an MLflow server has not begun to answer.", ["upstream", "lane"]
)
UPSTREAM_UP = Gauge("countersign_upstream_up", "1 if an MLflow server is given requests, else 0.", ["upstream"])
UPSTREAM_TAKEN_OUT = Counter(
    "countersign_upstream_taken_out_total", "Times an MLflow server was taken out.", ["upstream", "reason"]
)
RESOLUTIONS = Counter("countersign_resolutions_total", "Answers to `/control/v1/resolve`.", ["outcome"])
RESOLUTION_WATCHERS = Gauge("countersign_resolution_watchers", "Long polls and streams that wait for a resolution.")
DENIALS = Counter("countersign_denials_total", "Requests that were refused.", ["problem"])
JOBS = Counter("countersign_jobs_total", "Jobs the worker ran.", ["task", "outcome"])
DELIVERIES = Counter("countersign_delivery_attempts_total", "Attempts to deliver a webhook.", ["outcome"])
DELIVERY_SECONDS = Histogram(
    "countersign_delivery_seconds",
    "Seconds from a message being there to its receiver having taken it.",
    ["kind"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 600, 3600, 86400),
)
DELIVERIES_PENDING = Gauge("countersign_deliveries_pending", "Messages that wait to be sent, or to be sent again.")
DELIVERIES_OLDEST_SECONDS = Gauge(
    "countersign_deliveries_oldest_seconds", "How long the oldest of the messages waits that wait; 0 if none does."
)
GLASS_BROKEN = Counter("countersign_glass_broken_total", "Times somebody broke the glass of an alias.")
DRIFTS = Counter("countersign_drifts_total", "Protected aliases that were found moved past the gateway.")
DRIFTS_OPEN = Gauge("countersign_drifts_open", "Protected aliases that MLflow shows otherwise than they should be.")
DEPLOYMENTS_DRIFTED = Gauge(
    "countersign_deployments_drifted", "Deployments of which what is served is not as it should be.", ["drift"]
)
LOOKED_AT_TARGETS_AT = Gauge(
    "countersign_targets_looked_at_timestamp_seconds", "When all targets were last asked what they serve."
)
BYTES_NOT_AS_APPROVED = Gauge(
    "countersign_versions_not_as_approved",
    "Versions that hold protected aliases and whose bytes changed, are gone, or could not be seen for a day.",
    ["state"],
)
VERIFIED_AT = Gauge(
    "countersign_verified_timestamp_seconds", "When the bytes of all promoted versions that were due were looked at."
)
RECONCILED_AT = Gauge("countersign_reconciled_timestamp_seconds", "When MLflow's aliases were last all looked at.")
PROMOTIONS = Gauge("countersign_promotions", "Promotions that wait for somebody or something.", ["state"])

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being served; each has a context of its own."""

_PROCESS, _NUMBERS = secrets.token_hex(4), itertools.count(1)

_SECRET_WORDS = ("authorization", "token", "secret", "password", "cookie", "signature")


def configure_logging(*, log_format: str, log_level: str) -> None:
    """Everything that this process logs goes to stderr as one event a line, ours and our libraries'."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_request_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(allow=()),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _without_secrets,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    final: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
        if log_format == "json"
        # The renderer's own choice shows the variables of every frame, tokens among them.
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = True
    # One line a request is ours to write; the queue tells of every job twice; the clients log URLs, and that of AWS
    # whole answers, those of STS with the keys that are lent.
    for name in ("uvicorn.access", "procrastinate", "httpx", "httpcore", "urllib3", "boto3", "botocore", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _without_secrets(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The last net: nothing whose name says that it is a secret is written."""
    for key in event:
        if any(word in key.lower() for word in _SECRET_WORDS):
            event[key] = "***"
    return event


def _with_request_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if request_id := REQUEST_ID.get():
        event["request_id"] = request_id
    return event


def new_request_id() -> str:
    """Ours, whatever the caller sent: what goes into logs is not the caller's to choose. Unique, not secret."""
    return f"{_PROCESS}{next(_NUMBERS):08x}"
