"""How long it takes from an approval to the first answer of the new version, and where the time goes: on all that
``countersign up --with-ray`` starts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from rich.console import Console
from rich.table import Table

from bench.proxy.parts import PartFailed, free_port
from bench.serving.models import NAME
from bench.serving.prober import Prober
from demo.audit import entries_after, last_sequence
from demo.calls import Control
from demo.platform import Connection, Platform
from demo.scientist import Scientist
from demo.screen import Screen

ALIAS = "production"
ALPHAS = (1.0, 0.1)
LIVE_WITHIN_S = 240.0
QUIET_S = 1.0
TOLD = {
    "promotion.applying": "applying: the worker has it",
    "promotion.applied": "applied: MLflow shows the alias at the version",
    "deployment.accepted": "the gateway has heard Accepted",
    "deployment.progressing": "the gateway has heard Progressing",
    "deployment.ready": "the gateway has heard Ready",
    "promotion.live": "live",
}
"""What the audit log tells of a promotion, in the words of a table."""
MOVED = {
    "starting": "the deployer has told Ray of the version",
    "switching": "Ray says RUNNING: the router is told of the route",
    "settled": "every router has answered a probe: Ready is reported",
}
"""What the deployer's log tells."""


@dataclass(frozen=True, slots=True)
class Journey:
    """One promotion: seconds from the approval to each step, in the order of the steps."""

    name: str
    steps: Mapping[str, float]


class _Quiet(Screen):
    """Without what `countersign up` says of itself, and how far everything is."""

    def overheard(self, line: str) -> None:
        pass

    @contextmanager
    def waiting(self, what: str) -> Iterator[Callable[[str], None]]:  # noqa: ARG002  # the story's signature
        yield lambda _: None


@dataclass(frozen=True)
class _Stack:
    folder: Path
    connection: Connection
    control: Control

    def promote(self, version: str) -> tuple[str, float]:
        """Ask and approve; the promotion, and when the approval was sent."""
        body = {"model": NAME, "alias": ALIAS, "version": version, "reason": "to see how long it takes"}
        promotion = str(self._ok("scientist", "/promotions", body)["id"])
        sent = time.time()
        self._ok("approver", f"/promotions/{promotion}/approve", {"reason": "it may"})
        return promotion, sent

    def roll_back(self) -> tuple[str, float]:
        """Go back to the version before, which needs no second signature."""
        sent = time.time()
        answer = self._ok("approver", f"/models/{NAME}/aliases/{ALIAS}/rollback", {"reason": "the way back"})
        return str(answer["id"]), sent

    def until_live(self, promotion: str) -> Mapping[str, Any]:
        """The promotion once it is live."""
        return self.control.follow(promotion, lambda now: bool(now["state"] == "live"), "", LIVE_WITHIN_S)

    def _ok(self, who: str, path: str, body: Mapping[str, str]) -> Mapping[str, Any]:
        answer = self.control.call(who, "POST", path, json=dict(body))
        if not answer.is_success:
            raise PartFailed(f"POST {path}: {answer.status_code} {answer.text}")
        document: Mapping[str, Any] = answer.json()
        return document


def promotions(folder: Path, body: str, console: Console, *, per_second: float) -> Mapping[str, Any]:
    """Run and print; the figures.

    Raises:
        PartFailed: a call was refused.
        StoryFailed: a promotion did not become live.
    """
    screen = _Quiet()
    with Platform(folder, free_port(), screen).started() as connection:
        stack, scientist = _Stack(folder, connection, Control(connection, screen)), Scientist(connection)
        first, second = (str(scientist.train(NAME, alpha)["version"]) for alpha in ALPHAS)
        stack.until_live(stack.promote(first)[0])
        with Prober(f"{connection.serve}/{NAME}", body, per_second=per_second, expected={}) as prober:
            found = [_travelled(stack, "a new version", second), _travelled(stack, "back to the one before")]
        journeys = [_journey(stack, prober, *each) for each in found]
        failed = prober.window(0, time.time())
    _show(console, journeys)
    console.print(f"{failed.asked} requests meanwhile, {failed.failed} failed")
    return {"journeys": [asdict(each) for each in journeys], "failed": failed.failed}


Travelled = tuple[str, Mapping[str, Any], float, int]
"""The journey's name, the promotion, when it was approved, and the last audit entry before."""


def _travelled(stack: _Stack, name: str, version: str | None = None) -> Travelled:
    time.sleep(QUIET_S)
    before = last_sequence(stack.control)
    promotion, sent = stack.promote(version) if version else stack.roll_back()
    live = stack.until_live(promotion)
    time.sleep(QUIET_S)
    return name, live, sent, before


def _journey(
    stack: _Stack, prober: Prober, name: str, promotion: Mapping[str, Any], sent: float, before: int
) -> Journey:
    entries = [item["entry"] for item in entries_after(stack.control, before)]
    [deployment] = promotion["deployments"]
    of_this = [each for each in entries if each["object"] in {promotion["id"], deployment["id"]}]
    moments = {TOLD[each["action"]]: _seconds(each["at"]) for each in reversed(of_this) if each["action"] in TOLD}
    moments |= {**_delivered(stack, deployment), **_moved(stack, deployment["generation"])}
    answered = prober.first_of(promotion["to_version"], sent)
    if answered is not None:
        moments["a client has the first answer of the version"] = answered
    # The gateway's own clock says when it was approved; the answer to the approval comes a little later.
    approved = next((_seconds(each["at"]) for each in of_this if each["action"] == "promotion.approved"), sent)
    steps = sorted(((at - approved, step) for step, at in moments.items()), key=lambda each: each[0])
    return Journey(name, {step: seconds for seconds, step in steps})


def _delivered(stack: _Stack, deployment: Mapping[str, Any]) -> Mapping[str, float]:
    """When the call was on its way, and when it was answered."""
    database = json.loads((stack.folder / "connection.json").read_text())["database"]
    query = """
        SELECT started_at, duration_ms FROM delivery_attempts JOIN deliveries ON id = delivery_id
        WHERE subject = %s AND generation = %s AND status < 300 ORDER BY started_at LIMIT 1
    """
    with psycopg.connect(database) as connection:
        row = connection.execute(query, (f"{deployment['target']}/{NAME}", deployment["generation"])).fetchone()
    if row is None:
        return {}
    started, took = row[0], timedelta(milliseconds=row[1])
    return {
        "the call leaves": started.timestamp(),
        "the call is taken (202)": (started + took).timestamp(),
    }


def _moved(stack: _Stack, generation: int) -> Mapping[str, float]:
    """What the deployer's log says of a generation."""
    lines = (stack.folder / "logs" / "deployer.log").read_text().splitlines()
    told = [json.loads(line) for line in lines if line.startswith('{"') and "rollout.moved" in line]
    return {
        MOVED[each["step"]]: _seconds(each["timestamp"])
        for each in reversed(told)
        if each["generation"] == generation and each["step"] in MOVED
    }


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _show(console: Console, journeys: Sequence[Journey]) -> None:
    for journey in journeys:
        table = Table(f"{journey.name}: seconds since it was approved", "", "step")
        for column in table.columns[1:]:
            column.justify = "right"
        before = 0.0
        for step, seconds in journey.steps.items():
            table.add_row(step, f"{seconds:.2f}", f"+{seconds - before:.2f}")
            before = seconds
        console.print(table)
