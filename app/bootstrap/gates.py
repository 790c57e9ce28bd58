"""Builds what asks gates without a rollout."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from app.adapters.clock import SystemClock
from app.adapters.postgres.unit_of_work import Database
from app.adapters.prometheus import Prometheus
from app.adapters.secrets import Secrets
from app.services.gating import Gating


@asynccontextmanager
async def open_gates(database_url: str, *, ca_file: Path | None = None) -> AsyncIterator[Gating]:
    """Asks as the worker does, from here."""
    async with AsyncExitStack() as stack:
        database = Database(database_url)
        stack.push_async_callback(database.close)
        prometheus = Prometheus(Secrets(), ca_file=ca_file)
        stack.push_async_callback(prometheus.close)
        yield Gating(database.unit_of_work, prometheus, SystemClock())
