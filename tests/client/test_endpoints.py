"""The commands around webhooks: what they ask of the gateway, what a person reads, and the status they end with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from countersign_client.cli.deliveries import DeliveryState as ListedState
from countersign_client.following import Exit
from countersign_client.store import LoginStore

from app.domain.deliveries import DeliveryState
from tests.client.standin import Answer, Seen, Standin

Command = Callable[..., int]
# The package has the commands of these names: the modules are behind them.
endpoints, deliveries = (import_module(f"countersign_client.cli.{name}") for name in ("endpoints", "deliveries"))
BASE = "/control/v1"
ENDPOINT: dict[str, object] = {
    "name": "ci",
    "channel": "webhook",
    "state": "disabled",
    "state_reason": "it answered 410 Gone",
    "failing_since": "2026-10-01T06:00:00Z",
    "document": {
        "kind": "Endpoint",
        "name": "ci",
        "url": "https://ci.example/hook",
        "events": ["promotion.*"],
        "models": ["*"],
        "signing": "ed25519",
        "timeoutSeconds": 10,
        "disabled": False,
    },
    "cautions": ["url: not encrypted"],
    "updated_at": "2026-10-01T05:00:00Z",
    "updated_by": "root",
}
ATTEMPT = {
    "number": 1,
    "started_at": "2026-10-01T06:00:00Z",
    "duration_ms": 12,
    "address": "192.0.2.7",
    "status": 404,
    "error": None,
    "response": "no such \x1b[31mhook",
    "advice": "Is the URL right?",
    "request_headers": {},
    "response_headers": {},
}


def delivery(state: str, *log: Mapping[str, object], **more: object) -> dict[str, object]:
    return {
        "id": "dlv_1",
        "receiver": "endpoint:ci",
        "message_id": "evn_1",
        "event_type": "promotion.applied",
        "subject": "prm_1",
        "lane": "fraud",
        "cause": "event",
        "state": state,
        "attempts": len(log),
        "created_at": "2026-10-01T06:00:00Z",
        "payload": {"type": "countersign.promotion.applied.v1"},
        "log": list(log),
        **more,
    }


@pytest.fixture
def desk(gateway: Standin, store: LoginStore, command: Command, monkeypatch: pytest.MonkeyPatch) -> Standin:
    """A gateway that knows the token in this process's environment; nobody waits."""
    monkeypatch.setenv("COUNTERSIGN_URL", gateway.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", gateway.access)
    monkeypatch.setattr(deliveries, "_PAUSES_S", (0.001, 0.002))
    monkeypatch.setattr(endpoints, "_PAUSE_S", 0.001)
    return gateway


def answers(gateway: Standin, path: str, *documents: Mapping[str, object]) -> None:
    """Each question is answered by the next; the last one stays."""
    left = list(documents)

    def answer(_: Seen) -> Answer:
        return 200, left.pop(0) if len(left) > 1 else left[0]

    gateway.answers[f"{BASE}{path}"] = answer


def asked(gateway: Standin, path: str) -> Any:
    [seen] = gateway.calls(f"{BASE}{path}")
    return json.loads(seen.body) if seen.body else seen.query


def test_endpoints_are_listed_with_why_they_are_not_well(
    command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(desk, "/endpoints", {"items": [ENDPOINT], "next_cursor": None})
    assert command("endpoints", "list") == 0
    out = capsys.readouterr().out
    for said in ("ci", "disabled", "https://ci.example/hook", "promotion.*", "it answered 410 Gone"):
        assert said in out
    assert command("endpoints", "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["items"] == [ENDPOINT]


def test_an_endpoint_is_shown_with_its_keys_and_what_it_was_sent_last(
    command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(desk, "/endpoints/ci", ENDPOINT)
    key = {"number": 2, "signing": "ed25519", "public": "whpk_abc", "until": "2026-10-02T06:00:00Z"}
    answers(desk, "/endpoints/ci/keys", {"items": [key]})
    answers(desk, "/deliveries", {"items": [delivery("dead")], "next_cursor": None})
    assert command("endpoints", "show", "ci") == 0
    out = capsys.readouterr().out
    for said in ("disabled: it answered 410 Gone", "whpk_abc, until", "url: not encrypted", "dlv_1", "promotion.*"):
        assert said in out
    assert desk.calls(f"{BASE}/deliveries")[0].query["receiver"] == "endpoint:ci"
    assert command("endpoints", "show", "ci", "--json") == 0
    assert json.loads(capsys.readouterr().out)["keys"] == [key]


def test_an_endpoint_that_takes_nothing_is_shown_with_the_reason(
    command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(desk, "/endpoints/ci", ENDPOINT | {"failing_since": "2026-10-01T06:00:00Z"})
    answers(desk, "/endpoints/ci/keys", {"items": []})
    answers(desk, "/deliveries", {"items": [delivery("pending", ATTEMPT) | {"attempts": 1}], "next_cursor": None})
    answers(desk, "/deliveries/dlv_1", delivery("pending", ATTEMPT))
    assert command("endpoints", "show", "ci") == 0
    assert "Is the URL right?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("states", "status", "said"),
    [
        ([delivery("pending"), delivery("delivered", {**ATTEMPT, "status": 204})], 0, "answered 204"),
        ([delivery("dead", ATTEMPT)], 7, "Is the URL right?"),
        ([delivery("pending", {**ATTEMPT, "status": 503}, next_attempt_at="2026-10-01T06:01:00Z")], 7, "next attempt"),
        ([delivery("pending")], 8, "pending"),
    ],
)
def test_a_ping_ends_with_what_came_of_it(
    command: Command,
    desk: Standin,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    states: list[dict[str, object]],
    status: int,
    said: str,
) -> None:
    answers(desk, "/endpoints/ci/ping", delivery("pending"))
    answers(desk, "/deliveries/dlv_1", *states)
    if status == Exit.TIMED_OUT:
        monkeypatch.setattr(endpoints, "seconds", lambda *_: 0)
    assert command("endpoints", "ping", "ci") == status
    assert said in capsys.readouterr().out
    [seen] = desk.calls(f"{BASE}/endpoints/ci/ping")
    assert seen.headers["Idempotency-Key"]


def test_a_new_key_is_alone_on_stdout(command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    key = {"number": 2, "signing": "hmac", "public": None, "secret": "whsec_abc", "until": None}
    answers(desk, "/endpoints/ci/rotate", {**ENDPOINT, "key": key, "previous_key_until": "2026-10-08T06:00:00Z"})
    assert command("endpoints", "rotate", "ci", "--overlap", "7d") == 0
    out, err = capsys.readouterr()
    assert out == "whsec_abc\n"
    assert "until 2026-10-08" in err
    assert asked(desk, "/endpoints/ci/rotate") == {"overlap_s": 604_800}
    assert command("endpoints", "rotate", "ci", "--overlap", "soon") == 2


def test_enabling_disabling_and_removing_say_what_is_now(
    command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(desk, "/endpoints/ci/enable", {**ENDPOINT, "state": "active"})
    answers(desk, "/endpoints/ci/disable", ENDPOINT)
    answers(desk, "/endpoints/ci", {})
    assert command("endpoints", "enable", "ci") == 0
    assert command("endpoints", "disable", "ci", "--reason", "too loud") == 0
    assert command("endpoints", "delete", "ci", "--yes") == 0
    assert capsys.readouterr().out == "ci is active.\nci is disabled.\nci is removed.\n"
    assert asked(desk, "/endpoints/ci/disable") == {"reason": "too loud"}
    assert command("endpoints", "delete", "ci") == 1  # nobody said yes
    assert len(desk.calls(f"{BASE}/endpoints/ci")) == 1


def test_a_replay_says_how_far_it_is(command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    answers(desk, "/endpoints/ci/replay", {"count": 2, "dry_run": False})
    before, waiting = (
        {"items": [delivery(state, id=f"dlv_{state}")], "next_cursor": None} for state in ("delivered", "pending")
    )
    none: dict[str, object] = {"items": [], "next_cursor": None}
    answers(desk, "/deliveries", before, waiting, none)
    assert command("endpoints", "replay", "ci", "--since", "2h", "--type", "promotion.*", "--wait") == 0
    out, err = capsys.readouterr()
    assert "2 messages were sent to ci" in out
    assert "1 messages wait for ci, of 2" in err
    body = asked(desk, "/endpoints/ci/replay")
    ago = datetime.now(UTC) - datetime.fromisoformat(body.pop("since"))
    assert timedelta(hours=2) <= ago < timedelta(hours=2, minutes=5)
    assert body == {"types": ["promotion.*"], "only": "failed", "dry_run": False}
    assert command("endpoints", "replay", "ci", "--since", "yesterday") == 2
    lost = {"items": [delivery("dead", cause="replay", id="dlv_lost"), delivery("dead")], "next_cursor": None}
    answers(desk, "/deliveries", before, none, lost)
    assert command("endpoints", "replay", "ci", "--since", "2h", "--wait") == 7
    assert "1 of 2 messages did not reach ci" in capsys.readouterr().out


def test_deliveries_are_sought_by_what_one_knows(
    command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(desk, "/deliveries", {"items": [delivery("dead")], "next_cursor": None})
    since = "2026-10-01T06:00:00+00:00"
    known = ("--target", "ray", "--model", "fraud", "--message", "evn_1", "--type", "promotion.applied")
    assert command("deliveries", "list", "--failed", "--since", since, *known) == 0
    assert "endpoint:ci" in capsys.readouterr().out
    query = asked(desk, "/deliveries")
    assert query == {
        "receiver": "target:ray",
        "state": "dead",
        "model": "fraud",
        "message_id": "evn_1",
        "type": "promotion.applied",
        "since": since,
        "limit": "50",
    }
    assert command("deliveries", "list", "--endpoint", "a", "--target", "b") == 2
    assert command("deliveries", "list", "--failed", "--state", "pending") == 2
    assert {each.value for each in ListedState} == {each.value for each in DeliveryState}


def test_a_failure_explains_itself(command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    refused = {**ATTEMPT, "number": 2, "status": None, "error": "connection refused", "response": ""}
    answers(desk, "/deliveries/dlv_1", delivery("dead", ATTEMPT, refused))
    assert command("deliveries", "show", "dlv_1") == 0
    out = capsys.readouterr().out
    for said in (
        "promotion.applied of prm_1",
        "countersign.promotion.applied.v1",
        "answered 404 by 192.0.2.7 after 12 ms",
        "Is the URL right?",
        "no answer by 192.0.2.7 after 12 ms: connection refused",
    ):
        assert said in out
    assert "\x1b" not in out
    answers(desk, "/deliveries/dlv_1", delivery("pending"))
    assert command("deliveries", "show", "dlv_1") == 0
    assert "no attempt yet" in capsys.readouterr().out


def test_a_message_is_sent_again(command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    answers(desk, "/deliveries/dlv_1/redeliver", {**delivery("pending"), "id": "dlv_2"})
    answers(desk, "/deliveries/dlv_1/skip", delivery("dead"))
    assert command("deliveries", "redeliver", "dlv_1", "--no-wait") == 0
    assert capsys.readouterr().out == "dlv_2\n"
    assert command("deliveries", "skip", "dlv_1") == 0
    assert "given up" in capsys.readouterr().out
