"""``countersign events``: what it asks, what it shows, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from countersign_client import following
from countersign_client.cli.events import line_of
from countersign_client.store import LoginStore

from tests.client.standin import Answer, Standin

Command = Callable[..., int]
PATH = "/control/v1/events"


def event(sequence: int, kind: str = "alias.moved", **data: object) -> dict[str, Any]:
    at = {"at": "2026-10-01T06:00:03.120000Z", "subject": "iris@production"}
    return {"sequence": sequence, "type": kind, **at, "model": "iris", "alias": "production", "data": data}


@pytest.fixture
def asked(
    gateway: Standin, store: LoginStore, no_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Standin]:
    """A gateway whose answers are these, one after the other; then it refuses."""
    monkeypatch.setenv("COUNTERSIGN_URL", gateway.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", gateway.access)
    monkeypatch.setattr(following, "_PAUSES_S", (0.001, 0.002))

    def answers(*pages: Answer) -> Standin:
        left = [*pages, (403, {"detail": "You may not read events any more."})]
        gateway.answers[PATH] = lambda _seen: left.pop(0)
        return gateway

    return answers


def page(*events: dict[str, Any], after: int) -> Answer:
    return 200, {"items": list(events), "next_after": after}


def queries(gateway: Standin) -> list[dict[str, str]]:
    return [dict(seen.query) for seen in gateway.calls(PATH)]


def test_the_last_ones_are_shown_oldest_first(
    command: Command, asked: Callable[..., Standin], capsys: pytest.CaptureFixture[str]
) -> None:
    moved = event(2, from_version="6", version="7", by="Ann", reason=None)
    gateway = asked(page(moved, event(1, "promotion.commented", to_version="7", by="Bob", comment="no"), after=2))
    assert command("events", "--type", "alias.moved", "--model", "iris", "--alias", "production") == 0
    assert capsys.readouterr().out.splitlines() == [
        "2026-10-01T06:00:03Z  promotion.commented        iris@production 7 by Bob: no",
        "2026-10-01T06:00:03Z  alias.moved                iris@production 6 to 7 by Ann",
    ]
    wanted = {"type": "alias.moved", "model": "iris", "alias": "production", "limit": "20", "newest_first": "true"}
    assert queries(gateway) == [wanted]


def test_following_goes_on_where_it_was_also_when_the_gateway_was_away(
    command: Command, asked: Callable[..., Standin], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = asked(page(event(5), after=5), (503, {}), page(event(6), event(7), after=7))
    assert command("events", "--after", "4", "--follow", "--json") == 1  # until it may not any more
    out, err = capsys.readouterr()
    assert [json.loads(line)["sequence"] for line in out.splitlines()] == [5, 6, 7]
    assert "may not read events any more" in err
    assert [(each["after"], each.get("wait")) for each in queries(gateway)] == [
        ("4", None),
        ("5", "20"),
        ("5", "20"),
        ("7", "20"),
    ]


def test_who_wants_what_comes_is_not_shown_what_was(
    command: Command, asked: Callable[..., Standin], capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = asked(page(event(5), after=5), page(event(6), after=6))
    assert command("events", "--limit", "0", "--follow", "--json") == 1  # until it may not any more
    assert [json.loads(line)["sequence"] for line in capsys.readouterr().out.splitlines()] == [6]
    assert [each.get("after") for each in queries(gateway)] == [None, "5", "6"]
    assert command("events", "--limit", "0") == 2
    assert command("events", "--limit", "0", "--follow", "--after", "5") == 2


def test_what_others_wrote_reaches_no_terminal_raw() -> None:
    said = line_of(event(1, "promotion.commented", comment="\x1b[2Jgone"))
    assert "\x1b" not in said
    assert line_of({"type": "policy.changed", "subject": "risky", "data": None}).endswith(
        "policy.changed             risky"
    )
