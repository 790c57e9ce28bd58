"""A client of the served model that asks without a pause, and remembers every answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

import httpx

from demo.failure import require

PAUSE_S = 0.02
TIMEOUT_S = 15.0
SHOWN_FAILURES = 3
PATIENCE_S = 60.0

Predictions = tuple[float, ...]


class Prober:
    """Asks from the beginning to the end of its block, in a thread of its own."""

    def __init__(self, url: str, payload: dict[str, Any]) -> None:
        self._url = url
        self._payload = payload
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.answers: Counter[tuple[str, Predictions]] = Counter()
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(TIMEOUT_S + 1)

    @property
    def asked(self) -> int:
        """How many requests there were, answered or not."""
        return self.answers.total() + len(self.failures)

    def keep_asking(self, requests: int) -> None:
        """Return after so many more requests."""
        goal, deadline = self.asked + requests, time.monotonic() + PATIENCE_S
        while self.asked < goal:
            require(time.monotonic() < deadline, f"{requests} requests to the model took more than {PATIENCE_S:.0f} s")
            time.sleep(PAUSE_S)

    def require_no_failure(self) -> None:
        """Fail the story if one request failed."""
        shown = "; ".join(self.failures[:SHOWN_FAILURES])
        require(not self.failures, f"{len(self.failures)} of {self.asked} requests to the served model failed: {shown}")

    def _ask(self) -> None:
        with httpx.Client(timeout=TIMEOUT_S, trust_env=False) as http:
            while not self._ended.is_set():
                try:
                    self.answers[ask(http, self._url, self._payload)] += 1
                except (httpx.HTTPError, ValueError) as error:
                    self.failures.append(repr(error))
                time.sleep(PAUSE_S)


def ask(http: httpx.Client, url: str, payload: dict[str, Any]) -> tuple[str, Predictions]:
    """The version that answered, and its predictions.

    Raises:
        httpx.HTTPError, ValueError: no answer, or not one with predictions.
    """
    answer = http.post(url, json=payload)
    if answer.status_code != 200:
        raise ValueError(f"{answer.status_code} {answer.text[:200]}")
    predictions = answer.json().get("predictions")
    if "X-Model-Version" not in answer.headers or not isinstance(predictions, list):
        raise ValueError(f"an answer without a version or predictions: {answer.text[:200]}")
    return answer.headers["X-Model-Version"], tuple(float(value) for value in predictions)
