"""One load on one contender by ``wrk``: a request repeated on some connections as fast as answers come."""

from __future__ import annotations

import http.client
import itertools
import json
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from bench.proxy.parts import PartFailed, cpu_s, rss

SCRIPT = Path(__file__).with_name("load.lua")
SLOWEST_S = 60
"""An answer that takes longer is an error."""

_STEPS = itertools.count(int(time.time() * 1000), 100_000_000)


@dataclass(frozen=True, slots=True)
class Work:
    """One request. In path and body, ``@STEP@`` becomes a number that no other request has, ``@RUN@`` one of ``runs``.

    Every answer's status is compared with ``expected``. ``quick`` leaves that to wrk, which counts 4xx and 5xx only but
    is not slowed down by looking: for an upstream that knows nothing but 200.
    """

    name: str
    method: str
    path: str
    body: str | None = None
    runs: tuple[str, ...] = ("",)
    expected: int = 200
    quick: bool = False

    def once(self) -> tuple[str, str | None]:
        """Path and body of one request."""
        step = str(next(_STEPS))
        path, body = (
            text and text.replace("@STEP@", step).replace("@RUN@", self.runs[0]) for text in (self.path, self.body)
        )
        return path or "", body


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that answers. ``processes`` are those whose CPU and memory count; ``slow`` needs longer to be told."""

    name: str
    url: str
    processes: tuple[psutil.Process, ...]
    authorization: str | None = None
    slow: bool = False

    @property
    def address(self) -> str:
        return urlsplit(self.url).netloc

    def headers(self, work: Work) -> dict[str, str]:
        sent = {"Host": self.address}
        if self.authorization:
            sent["Authorization"] = self.authorization
        if work.body is not None:
            sent["Content-Type"] = "application/json"
        return sent


@dataclass(frozen=True, slots=True)
class Load:
    """What one load came to.

    ``wrk`` times answers alone. With fewer of them than connections at least one request was never answered, so that
    the whole duration stands for the 99th percentile, and with fewer than half for the median too: both took longer.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    rss_mib: float


def probe(contender: Contender, work: Work) -> None:
    """One request, to see that the contender does this work at all.

    Raises:
        PartFailed: it answers otherwise.
    """
    connection = http.client.HTTPConnection(contender.address, timeout=SLOWEST_S)
    path, body = work.once()
    try:
        connection.request(work.method, path, body, contender.headers(work))
        answer = connection.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise PartFailed(f"{contender.name} does not answer {work.name}: {error!r}") from None
    finally:
        connection.close()
    if answer.status != work.expected:
        text = said.decode(errors="replace")
        raise PartFailed(f"{contender.name} answers {work.name} with {answer.status}: {text[:200]}")


def load(contender: Contender, work: Work, connections: int, seconds: int, folder: Path) -> Load:
    """Run ``wrk`` once.

    Raises:
        PartFailed: a connection broke, or an answer had another status than expected.
    """
    described = folder / "work.lua"
    described.touch(mode=0o600)  # it carries a token
    described.write_text(_lua(contender, work))
    threads = 1 if connections < 16 else 2
    command = ["wrk", f"--threads={threads}", f"--connections={connections}", f"--duration={seconds}s"]
    command += [f"--timeout={SLOWEST_S}s", f"--script={SCRIPT}", contender.url, "--", str(described)]
    before = cpu_s(contender.processes)
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # no shell, our words
    used = cpu_s(contender.processes) - before
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode != 0 or not lines:
        raise PartFailed(f"wrk failed: {(done.stderr or done.stdout).strip()[-300:]}")
    said = json.loads(lines[0].removeprefix("RESULT "))
    wrong = (
        abs(said["refused"] - (said["requests"] if work.expected >= 400 else 0)) if work.quick else said["unexpected"]
    )
    if wrong or said["broken"]:
        raise PartFailed(
            f"{contender.name}: of {said['requests']} answers {wrong} had another status than {work.expected}, "
            f"and {said['broken']} connections broke"
        )
    return Load(
        rate=said["requests"] / said["seconds"],
        p50_ms=said["p50_ms"] if said["requests"] >= connections / 2 else seconds * 1e3,
        p99_ms=said["p99_ms"] if said["requests"] >= connections else seconds * 1e3,
        cpu_us=used / max(said["requests"], 1) * 1e6,
        rss_mib=rss(contender.processes) / 2**20,
    )


def _lua(contender: Contender, work: Work) -> str:
    # A JSON string of ASCII without controls is a string of Lua as well.
    fields: Mapping[str, str | None] = {
        "method": json.dumps(work.method),
        "path": json.dumps(work.path),
        "body": json.dumps(work.body) if work.body is not None else None,
        "headers": "{"
        + ", ".join(f"[{json.dumps(k)}] = {json.dumps(v)}" for k, v in contender.headers(work).items())
        + "}",
        "expected": None if work.quick else str(work.expected),
        "runs": "{" + ", ".join(json.dumps(run) for run in work.runs) + "}",
        "first": str(next(_STEPS)),
    }
    return "work = {" + ", ".join(f"{name} = {value}" for name, value in fields.items() if value is not None) + "}\n"
