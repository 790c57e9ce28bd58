"""Sends owed reports to the gateway, in order per deployment, until it takes or refuses them."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx
import structlog

from countersign_deployer.settings import DeployerSettings
from countersign_deployer.signatures import sign
from countersign_deployer.state import Report, StateStore

FIRST_PAUSE_S = 1.0
TRY_AGAIN = {408, 425, 429}  # a 4xx that is about now, not about the message

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Retry:
    tries: int
    not_before: float


class Reporter:
    """One sender. A report leaves the saved state only when the gateway has answered, so none is lost in a crash."""

    def __init__(self, settings: DeployerSettings, store: StateStore[Any], client: httpx.AsyncClient) -> None:
        self._settings = settings
        self._store = store
        self._client = client
        self._wake = asyncio.Event()
        self._retries: dict[str, _Retry] = {}
        self._settled: set[str] = set()
        """Reports that the gateway has answered, and that could not be taken out of the saved state yet."""

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    async def run(self) -> None:
        """Send for ever."""
        failures = 0
        while True:
            self._wake.clear()
            try:
                await self._send_due()
            except Exception:  # such as a full disk: what is owed stays in the state, and a later round tries again
                log.exception("reports.failed")
                failures += 1
                await asyncio.sleep(self._pause_after(failures))
                continue
            failures = 0
            try:
                async with asyncio.timeout(self._pause()):
                    await self._wake.wait()
            except TimeoutError:
                pass

    def _heads(self) -> dict[str, Report]:
        """The oldest owed report of each deployment."""
        heads: dict[str, Report] = {}
        for report in self._store.snapshot().outbox:
            if report.id not in self._settled:
                heads.setdefault(report.deployment_id, report)
        return heads

    def _pause(self) -> float | None:
        """Seconds until something is due; ``None``: nothing is owed."""
        dues = [self._retries[d].not_before if d in self._retries else 0.0 for d in self._heads()]
        return max(0.0, min(dues) - time.monotonic()) if dues else None

    async def _send_due(self) -> None:
        now = time.monotonic()
        due = [r for d, r in self._heads().items() if d not in self._retries or self._retries[d].not_before <= now]
        self._settled |= {report.id for report in await asyncio.gather(*map(self._send, due)) if report}
        if self._settled:
            async with self._store.transaction() as state:
                state.outbox = [report for report in state.outbox if report.id not in self._settled]
            self._settled = set()

    async def _send(self, report: Report) -> Report | None:
        """The report if it is settled (taken, or refused for good), ``None`` if it must be sent again."""
        headers = sign(report.id, report.body, self._settings.callback_secret.get_secret_value())
        try:
            answer = await self._client.post(
                report.url,
                content=report.body.encode(),
                headers={**headers, "Content-Type": "application/cloudevents+json"},
                timeout=self._settings.callback_timeout_s,
            )
        except httpx.HTTPError as error:
            self._postpone(report, type(error).__name__)
            return None
        if answer.is_success:
            log.debug("report.taken", deployment=report.deployment_id, phase=report.phase)
        elif answer.is_client_error and answer.status_code not in TRY_AGAIN:
            log.error("report.refused", deployment=report.deployment_id, phase=report.phase, status=answer.status_code)
        else:
            self._postpone(report, f"HTTP {answer.status_code}")
            return None
        self._retries.pop(report.deployment_id, None)
        return report

    def _postpone(self, report: Report, why: str) -> None:
        previous = self._retries.get(report.deployment_id)
        tries = previous.tries + 1 if previous else 1
        self._retries[report.deployment_id] = _Retry(tries, time.monotonic() + self._pause_after(tries))
        log.warning("report.postponed", deployment=report.deployment_id, phase=report.phase, why=why, tries=tries)

    def _pause_after(self, tries: int) -> float:
        """Seconds, more after each try in vain."""
        longest = min(self._settings.callback_retry_max_s, FIRST_PAUSE_S * 2 ** min(tries - 1, 20))
        return random.uniform(longest / 2, longest)  # noqa: S311  # spreads retries; nothing secret about it
