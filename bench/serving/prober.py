"""A client that asks at a steady rate, whatever becomes of its requests, and remembers every answer.

It does not wait for one answer before it asks again: where nobody answers, as many requests fail as really came.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import Self

import aiohttp

from bench.proxy.parts import PartFailed
from bench.serving.models import Predictions

ANSWER_WITHIN_S = 10.0
"""Who has no answer by then has failed."""
FIRST_WITHIN_S = 60.0
VERSION = "X-Model-Version"


@dataclass(frozen=True, slots=True)
class Answer:
    """One request: when it was sent and answered, in seconds since the epoch, and by which version rightly; where there
    is none, ``failure`` says what came.
    """

    sent: float
    at: float
    version: str | None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Window:
    """What a client saw between two moments. ``pause_s``: the longest time without a right answer."""

    asked: int
    failed: int
    pause_s: float
    failures: Sequence[str]


class Prober:
    """Asks from the beginning to the end of its block, in a thread of its own."""

    def __init__(self, url: str, body: str, *, per_second: float, expected: Mapping[str, Predictions]) -> None:
        """Prepare.

        Args:
            url: who is asked.
            body: the request.
            per_second: how often.
            expected: the right predictions, by version; those of other versions are believed.
        """
        self._url = url
        self._body = body.encode()
        self._every_s = 1 / per_second
        self._expected = expected
        self._answers: list[Answer] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask_steadily()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + FIRST_WITHIN_S
        while not any(answer.version for answer in tuple(self._answers)):
            if time.monotonic() > deadline:
                self._end()
                raise PartFailed(f"{self._url} does not answer: {self._answers[-1].failure if self._answers else ''}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def window(self, begin: float, end: float) -> Window:
        """What became of the requests that were sent between two moments; to be asked when the block is over."""
        asked = [answer for answer in self._answers if begin <= answer.sent < end]
        right = sorted(answer.at for answer in self._answers if answer.version and begin <= answer.at < end)
        failures = [answer.failure for answer in asked if not answer.version]
        pause = max(after - before for before, after in pairwise([begin, *right, end]))
        return Window(len(asked), len(failures), pause, list(dict.fromkeys(failures)))

    def first_of(self, version: str, since: float) -> float | None:
        """When a version answered for the first time since a moment; ``None`` if it never did."""
        return min((each.at for each in self._answers if each.version == version and each.at >= since), default=None)

    def _end(self) -> None:
        self._ended.set()
        self._thread.join()

    async def _ask_steadily(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ANSWER_WITHIN_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session, asyncio.TaskGroup() as tasks:
            due = time.monotonic()
            while not self._ended.is_set():
                tasks.create_task(self._ask(session))
                due += self._every_s
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        sent = time.time()
        version, failure = None, ""
        try:
            headers = {"Content-Type": "application/json"}
            async with session.post(self._url, data=self._body, headers=headers) as answer:
                if answer.status != 200:
                    failure = f"{answer.status} {(await answer.text())[:100]}"
                else:
                    version, failure = self._judged(answer.headers.get(VERSION), await answer.json())
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            failure = type(error).__name__
        self._answers.append(Answer(sent, time.time(), version, failure))

    def _judged(self, version: str | None, document: object) -> tuple[str | None, str]:
        if version is None:
            return None, "an answer without a version"
        found = document.get("predictions") if isinstance(document, dict) else None
        if not isinstance(found, list) or not alike(found, self._expected.get(version, found)):
            return None, f"wrong predictions of version {version}"
        return version, ""


def alike(some: Predictions, others: Predictions) -> bool:
    """Whether two lists of predictions are the same numbers."""
    return len(some) == len(others) and all(
        math.isclose(one, other, rel_tol=1e-9) for one, other in zip(some, others, strict=True)
    )
