"""Large artifacts, up and down: how fast they pass, and how much memory that takes."""

from __future__ import annotations

import http.client
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.proxy.load import Contender
from bench.proxy.parts import PartFailed, peak_rss, rss, settle
from bench.proxy.works import ARTIFACTS

MEBIBYTE = 2**20
_BLOCK = os.urandom(MEBIBYTE)
_PATIENCE_S = 300

Move = Callable[[Contender], float]
"""Moves artifacts through a contender; MiB a second."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What the rounds of one contender came to, or how one of them failed."""

    rate: float
    growth_mib: float
    failure: str


def send(contender: Contender, name: str, mebibytes: int) -> float:
    """Upload an artifact; MiB a second.

    Raises:
        PartFailed: it was not taken.
    """

    def blocks() -> Iterator[bytes]:
        for _ in range(mebibytes):
            yield _BLOCK

    began = time.perf_counter()
    connection = http.client.HTTPConnection(contender.address, timeout=_PATIENCE_S)
    try:
        headers = _headers(contender) | {"Content-Length": str(mebibytes * MEBIBYTE)}
        connection.request("PUT", f"{ARTIFACTS}/{name}", blocks(), headers)
        answer = connection.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise PartFailed(f"{contender.name} broke an upload: {error!r}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise PartFailed(f"{contender.name} answers an upload with {answer.status}: {said[:200]!r}")
    return mebibytes / (time.perf_counter() - began)


def fetch(contender: Contender, name: str, mebibytes: int) -> float:
    """Download an artifact; MiB a second.

    Raises:
        PartFailed: it did not come whole.
    """
    began, received = time.perf_counter(), 0
    buffer = bytearray(MEBIBYTE // 4)
    connection = http.client.HTTPConnection(contender.address, timeout=_PATIENCE_S)
    try:
        connection.request("GET", f"{ARTIFACTS}/{name}", headers=_headers(contender))
        answer = connection.getresponse()
        while size := answer.readinto(buffer):
            received += size
    except (OSError, http.client.HTTPException) as error:
        raise PartFailed(f"{contender.name} broke a download after {received} bytes: {error!r}") from None
    finally:
        connection.close()
    if answer.status != 200 or received != mebibytes * MEBIBYTE:
        raise PartFailed(f"{contender.name} answers a download with {answer.status} and {received} bytes")
    return mebibytes / (time.perf_counter() - began)


def fetch_at_once(contender: Contender, name: str, mebibytes: int, times: int) -> float:
    """So many downloads of one artifact at the same time; MiB a second of all together.

    Raises:
        PartFailed: some did not come whole; the message says how many.
    """
    began = time.perf_counter()
    with ThreadPoolExecutor(times) as pool:
        done = [pool.submit(fetch, contender, name, mebibytes) for _ in range(times)]
    errors = [error for one in done if (error := one.exception())]
    if errors:
        raise PartFailed(f"{len(errors)} of {times} downloads failed, the first so: {errors[0]}")
    return mebibytes * times / (time.perf_counter() - began)


def take_turns_moving(contenders: Sequence[Contender], move: Move, rounds: int) -> Mapping[str, Moved]:
    """The median rate of each contender, and the most that its memory grew by in a round."""
    rates: dict[str, list[float]] = {one.name: [] for one in contenders}
    growth: dict[str, list[float]] = {one.name: [0.0] for one in contenders}
    failures: dict[str, str] = {}
    for one in [*contenders] * rounds:
        before = rss(one.processes)
        with peak_rss(one.processes) as peak:
            try:
                rates[one.name].append(move(one))
            except PartFailed as error:
                failures[one.name] = str(error)
            growth[one.name].append((peak() - before) / MEBIBYTE)
        settle()
    return {
        name: Moved(statistics.median(found or [0.0]), max(growth[name]), failures.get(name, ""))
        for name, found in rates.items()
    }


def _headers(contender: Contender) -> dict[str, str]:
    return {"Authorization": contender.authorization} if contender.authorization else {}
