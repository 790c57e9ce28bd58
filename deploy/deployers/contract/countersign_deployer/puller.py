"""Asks the gateway what is desired: at the start, now and then, and when something is amiss.

A call is only a hint that comes quickly. What is pulled makes good for calls that were lost, for a state that was lost,
and for a serving system that lost what it had. What the gateway does not list any more stays as it is: only ``remove``
removes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from urllib.parse import quote, urlsplit

import httpx
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from countersign_deployer.calls import Answer, permit
from countersign_deployer.contract import Deployment
from countersign_deployer.problems import Problem, malformed
from countersign_deployer.settings import DeployerSettings, split_secrets
from countersign_deployer.signatures import BadSignature, sign_get, verify

LEAST_PAUSE_S = 1.0
"""Between two questions, however often it is woken; doubled while there is no answer."""
MAX_DESIRED_BYTES = 16 * 1024 * 1024

log = structlog.get_logger()

Feed = Callable[[Sequence[Deployment]], Awaitable[Sequence[Answer | Problem]]]


class _Desired(BaseModel):
    """What is read of the list before its items, so that one bad item does not hide the others."""

    model_config = ConfigDict(extra="ignore")

    target: str
    items: list[object]
    next_after: str | None = None


class NotPulled(Exception):
    """The gateway did not say what is desired; the message says why."""


class Puller:
    """One asker. Each item is taken as a call is, and never stands in the way of one."""

    def __init__(self, settings: DeployerSettings, client: httpx.AsyncClient, feed: Feed) -> None:
        self._settings = settings
        self._client = client
        self._feed = feed
        self._wake = asyncio.Event()
        self._url = f"{settings.gateway_url}/control/v1/targets/{quote(settings.target, safe='')}/desired"

    def wake(self) -> None:
        """Ask now, not at the next interval."""
        self._wake.set()

    async def run(self) -> None:
        """Ask for ever."""
        pause, trouble = LEAST_PAUSE_S, ""
        while True:
            self._wake.clear()
            try:
                await self.pull()
            except NotPulled as error:
                if str(error) != trouble:
                    log.warning("desired.not_pulled", why=str(error))
                trouble, pause = str(error), min(pause * 2, self._settings.pull_s)
            except Exception:  # what is desired stays so; the next round asks again
                log.exception("desired.failed")
            else:
                if trouble:
                    log.info("desired.pulled_again")
                trouble, pause = "", self._settings.pull_s
            least = min(LEAST_PAUSE_S, pause)
            await asyncio.sleep(least)
            try:
                async with asyncio.timeout(random.uniform(pause * 0.8, pause) - least):  # noqa: S311  # spreads deployers
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def pull(self) -> None:
        """Ask once, and take what is new.

        Raises:
            NotPulled: the gateway did not answer, or what it said is not authentic.
        """
        page = await self._page("")
        await self._take(page.items)
        while page.next_after:
            page = await self._page(page.next_after)
            await self._take(page.items)

    async def _take(self, items: list[object]) -> None:
        permitted, problems = [], []
        for item in items:
            try:
                wanted = Deployment.model_validate(item, strict=True)
                permit(wanted, self._settings)
                permitted.append(wanted)
            except (ValidationError, Problem) as error:
                problems.append(error if isinstance(error, Problem) else malformed(error))
        outcomes = await self._feed(permitted)
        for problem in [*problems, *(each for each in outcomes if isinstance(each, Problem))]:
            log.warning("desired.refused", status=int(problem.status), detail=problem.detail)

    async def _page(self, after: str) -> _Desired:
        path = urlsplit(self._url).path
        headers = sign_get(path, self._settings.callback_secret.get_secret_value())
        body = bytearray()
        try:
            async with self._client.stream(
                "GET", self._url, params={"after": after}, headers=headers, timeout=self._settings.callback_timeout_s
            ) as answer:
                async for chunk in answer.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_DESIRED_BYTES:
                        raise NotPulled(f"The gateway's answer is longer than {MAX_DESIRED_BYTES} bytes.")
        except httpx.HTTPError as error:
            raise NotPulled(f"The gateway did not answer ({type(error).__name__}).") from None
        if answer.status_code != httpx.codes.OK:
            raise NotPulled(f"The gateway answered {answer.status_code}.")
        self._authenticate(bytes(body), answer.headers, asked=headers["webhook-id"])
        try:
            desired = _Desired.model_validate_json(bytes(body))
        except ValidationError:
            raise NotPulled("The gateway's answer is not a list of what is desired.") from None
        if desired.target != self._settings.target:
            raise NotPulled("The gateway's answer is for another target.")
        return desired

    def _authenticate(self, body: bytes, headers: Mapping[str, str], *, asked: str) -> None:
        """What tells a deployer what to run is signed, whichever way it comes; and it answers *this* question."""
        try:
            verify(body, headers, split_secrets(self._settings.webhook_secret))
        except BadSignature as error:
            raise NotPulled(f"The gateway's answer is not signed with the target's secret: {error}") from None
        if headers.get("webhook-id") != asked:
            raise NotPulled("The gateway's answer is to another question.")
