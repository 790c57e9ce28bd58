"""Follows a promotion to its end, through restarts of the gateway and a network that comes and goes.

What is said of a promotion, and how it ended for a pipeline, are pure functions of the gateway's answer.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar
from urllib.parse import quote

from countersign_client.calls import ask, items
from countersign_client.errors import Unreachable
from countersign_client.wire import Json, Query, moment_of, plain


class Exit(IntEnum):
    """The exit status of a command; the same number always means the same."""

    DONE = 0
    REFUSED = 1
    """By the gateway: it may not be, there is no such thing, or its state forbids it."""
    USAGE = 2
    LOGIN_NEEDED = 3
    UNREACHABLE = 4
    REJECTED = 5
    BLOCKED = 6
    """By something that neither approvals nor time will change, such as a required check that failed."""
    FAILED = 7
    """It failed, or became stale: what was asked for is not what is there now."""
    TIMED_OUT = 8
    ENDED = 9
    """Withdrawn, superseded, expired, or rolled back."""
    WAITING = 10
    """Something is missing yet (``countersign explain``)."""
    INTERRUPTED = 130


Answer = TypeVar("Answer")
Detail = Mapping[str, object]
"""A promotion as ``GET /promotions/{id}`` answers."""

_ENDS = {
    "rejected": Exit.REJECTED,
    "failed": Exit.FAILED,
    "stale": Exit.FAILED,
    "withdrawn": Exit.ENDED,
    "superseded": Exit.ENDED,
    "expired": Exit.ENDED,
    "rolled_back": Exit.ENDED,
}
_WAIT_S = 20
"""For a change, at the gateway. Shorter than we wait for an answer, so that silence means trouble."""
_READING_S = 5
"""While artifacts are read: how far that is ends no wait at the gateway."""
_PAUSES_S = (1, 15)
"""Between two tries while the gateway is away: the first, and the longest."""
PATIENCE_S = 5.0
"""How long a gateway that is away is waited for, where nobody said how long."""
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Followed:
    """How a promotion ended, or how far it was when the time was over."""

    exit: Exit
    detail: Detail


def end_of(detail: Detail) -> Exit | None:
    """How a promotion ended for who waits for it; none while it goes on."""
    state = str(detail.get("state"))
    if state == "failed" and _goes_back(detail):
        return None
    if state in _ENDS:
        return _ENDS[state]
    if detail.get("settled") is True:
        return Exit.DONE
    return Exit.BLOCKED if detail.get("blocked") is True else None


def said(detail: Detail) -> tuple[str, ...]:
    """What there is to say of a promotion now: its state in a line, and a line for each thing that is missing."""
    state = plain(detail.get("state"))
    reason = plain(detail.get("state_reason"))
    # Why it was rejected or withdrawn begins with that word.
    head = reason if reason.startswith(state) else f"{state}: {reason}" if reason else state
    lines = [
        *_reading(detail),
        *(f"  {line}" for line in missing(detail)),
        *_rollout(detail, known=head),
        *_deployments(detail, known=head),
    ]
    if detail.get("void_reason") and state == "pending":
        lines.insert(0, f"  {plain(detail['void_reason'])}")
    if opens := moment_of(detail.get("opens_at")):
        lines.append(f"  not before {opens}")
    return (head, *lines)


def missing(detail: Detail) -> Iterator[str]:
    """A line for each rule that does not let it pass, with who could give what is missing."""
    for rule in items(detail.get("rules")):
        if rule.get("standing") not in {"waiting", "blocked"} or (rule.get("rule") == "digest" and _size(detail)):
            continue
        who = plain(rule.get("who"))
        # An approval's message says who could give it already.
        by = f" By {who}." if who and who not in plain(rule.get("message")) else ""
        link = details.get("link") if isinstance(details := rule.get("details"), Mapping) else None
        more = f" {plain(link)}" if link else ""
        yield f"{plain(rule.get('standing'))}: {plain(rule.get('name'))}: {plain(rule.get('message'))}{by}{more}"


def _size(detail: Detail) -> tuple[int, int] | None:
    """Bytes that are read, and all of them, if that is known."""
    reading = detail.get("reading")
    if not isinstance(reading, Mapping):
        return None
    read, total = reading.get("read_bytes"), reading.get("total_bytes")
    return (read, total) if isinstance(read, int) and isinstance(total, int) and total > 0 else None


def _reading(detail: Detail) -> Iterator[str]:
    if size := _size(detail):
        read, total = size
        yield f"  reading the artifacts: {100 * read // total} % of {total / _MIB:,.1f} MiB"


def _goes_back(detail: Detail) -> bool:
    """Whether its targets are on their way back: what becomes of it is known when they are there."""
    rollout = detail.get("rollout")
    return isinstance(rollout, Mapping) and rollout.get("stage") == "going_back"


def rollout_lines(rollout: Detail, *, whole: bool, known: str = "") -> Iterator[str]:
    """A line for each step of a rollout (``whole``), or for the present one; with its gates, and why it stopped.

    What ``known`` says is not said again.
    """
    steps, number = list(items(rollout.get("steps"))), rollout.get("step")
    stage = plain(rollout.get("stage")).replace("_", " ")
    to_come = "not reached" if rollout.get("settled") is True or stage == "going back" else "to come"
    for step in steps:
        is_now = step.get("number") == number and step.get("outcome") is None and rollout.get("settled") is not True
        if not (is_now or whole):
            continue
        how = stage if is_now else plain(step.get("outcome")) or to_come
        share = f"{plain(str(step.get('weight')))} % of the requests"
        until = f", held until {moment_of(step['held_until'])}" if step.get("held_until") else ""
        if is_now and stage == "holding" and step.get("hold_s") is None:
            until = ", held until somebody says `countersign rollout resume`"
        message = f"; {plain(step['message'])}" if step.get("message") else ""
        yield f"  step {plain(str(step.get('number')))} of {len(steps)}: {share}: {how}{until}{message}"
    if reason := plain(rollout.get("reason")):
        yield f"  {stage}: {reason}" if reason not in known else f"  {stage}"
    for gate in items(rollout.get("gates")):
        verdict = plain(gate.get("verdict")).replace("_", " ") or "not measured yet"
        times = f"{plain(str(gate.get('passes')))} time{'' if gate.get('passes') == 1 else 's'}"
        passes = f"passed {times}, {plain(str(gate.get('min_passes')))} needed"
        yield (
            f"  gate {plain(gate.get('name'))} on {plain(gate.get('target'))}: {verdict}, {passes}"
            + (f"; {plain(gate['message'])}" if gate.get("message") else "")
        )


def _rollout(detail: Detail, *, known: str) -> Iterator[str]:
    rollout = detail.get("rollout")
    if isinstance(rollout, Mapping):
        yield from rollout_lines(rollout, whole=False, known=known)


def _deployments(detail: Detail, *, known: str) -> Iterator[str]:
    for each in items(detail.get("deployments")):
        message = plain(each.get("message"))
        is_news = message and message not in known
        yield f"  {plain(each.get('target'))}: {plain(each.get('phase'))}" + (f", {message}" if is_news else "")


def follow(gateway: str, promotion_id: str, *, timeout_s: float, say: Callable[[str], None]) -> Followed:
    """Follow a promotion until it ends, is blocked, or the time is over.

    Args:
        gateway: its address.
        promotion_id: of which promotion.
        timeout_s: for how long, at most.
        say: told each line that is new.

    Raises:
        Refused: the gateway does not let us see it (any more).
        NotSignedIn: the token has ended, and no other can be had.
        Unreachable: the time was over, and the gateway was away then.
    """
    deadline, path = time.monotonic() + timeout_s, f"/promotions/{quote(promotion_id, safe='')}"
    told: tuple[str, ...] = ()
    etag: str | None = None
    detail: Detail = {}
    while True:
        left = deadline - time.monotonic()
        if detail and left <= 0:
            return Followed(Exit.TIMED_OUT, detail)
        longest = _READING_S if _size(detail) else _WAIT_S
        wait = min(longest, max(left, 0)) if etag else 0
        began = time.monotonic()
        reply = retried(
            lambda: ask(
                gateway,
                "GET",
                path,
                query={"wait": f"{wait:.2f}"} if wait else None,  # noqa: B023  # it is called at once
                headers={"If-None-Match": etag} if etag else None,  # noqa: B023  # it is called at once
            ),
            deadline=deadline,
            say=say,
        )
        detail = reply.document
        now = said(detail)
        for line in now if now[0] not in told[:1] else [each for each in now if each not in told]:
            say(line)
        told = now
        if (ended := end_of(detail)) is not None:
            return Followed(ended, detail)
        if reply.etag == etag and time.monotonic() - began < _PAUSES_S[0]:
            # A gateway that stops answers at once; and a caller who asks again at once would keep it busy.
            time.sleep(min(_PAUSES_S[0], max(deadline - time.monotonic(), 0)))
        etag = reply.etag


def created(
    gateway: str,
    path: str,
    document: Mapping[str, Json],
    *,
    query: Query | None = None,
    within_s: float = PATIENCE_S,
    say: Callable[[str], None],
) -> Mapping[str, object]:
    """What the gateway made, asked for until it answers. Each try has the same ``Idempotency-Key``: it is done once.

    Raises:
        Unreachable: it was away for ``within_s``. Else as ``ask``.
    """
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    return retried(
        lambda: ask(gateway, "POST", path, document=document, query=query, headers=headers).document,
        deadline=time.monotonic() + within_s,
        say=say,
    )


def retried(call: Callable[[], Answer], *, deadline: float, say: Callable[[str], None]) -> Answer:
    """The answer, as soon as the gateway gives one. What is called must be harmless when it is done twice.

    Raises:
        Unreachable: it was away until ``deadline``, by ``time.monotonic``.
    """
    pause, longest = _PAUSES_S
    is_away = False
    while True:
        try:
            answer = call()
        except Unreachable as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            if not is_away:
                say(f"{error} Trying on …")
            is_away = True
            time.sleep(min(pause, left))
            pause = min(2 * pause, longest)
        else:
            if is_away:
                say("The gateway answers again.")
            return answer
