"""``countersign rollout``, and what following a promotion says of its rollout."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from countersign_client.following import Exit, end_of, said
from countersign_client.store import LoginStore

from tests.client.standin import Answer, Seen, Standin

Command = Callable[..., int]
PATH = "/control/v1/promotions/prm_1/rollout"


def rollout(**changed: Any) -> dict[str, Any]:
    steps = [
        {"number": 1, "weight": 0, "hold_s": 60, "outcome": "passed"},
        {"number": 2, "weight": 10, "hold_s": 300, "outcome": None, "held_until": "2026-10-01T06:05:00Z"},
        {"number": 3, "weight": 100, "hold_s": 0, "outcome": None, "message": "What was served before is let go."},
    ]
    gate = {
        "name": "errors",
        "target": "ray",
        "verdict": "no_data",
        "passes": 0,
        "min_passes": 2,
        "message": "no series",
    }
    target = {"name": "ray", "action": "apply", "version": "7", "weight": 10, "stable_version": "6", "phase": "Ready"}
    return {
        "promotion_id": "prm_1",
        "promotion_state": "rolling_out",
        "stage": "holding",
        "step": 2,
        "settled": False,
        "reason": "",
        "steps": steps,
        "gates": [gate],
        "targets": [target],
        **changed,
    }


@pytest.fixture
def desk(gateway: Standin, store: LoginStore, signed_in: Callable[..., object]) -> Standin:
    del store
    signed_in()
    return gateway


def answers(gateway: Standin, path: str, document: Mapping[str, object]) -> None:
    def answer(_: Seen) -> Answer:
        return 200, document

    gateway.answers[path] = answer


def test_every_step_is_shown_with_gates_and_targets(
    command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(desk, PATH, rollout())
    assert command("rollout", "show", "prm_1") == 0
    assert capsys.readouterr().out.splitlines() == [
        "prm_1 rolling_out: holding",
        "  step 1 of 3: 0 % of the requests: passed",
        "  step 2 of 3: 10 % of the requests: holding, held until 2026-10-01T06:05:00Z",
        "  step 3 of 3: 100 % of the requests: to come; What was served before is let go.",
        "  gate errors on ray: no data, passed 0 times, 2 needed; no series",
        "  ray: 10 % version 7, the rest version 6: Ready",
    ]
    assert command("rollout", "show", "prm_1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "holding"


@pytest.mark.parametrize("order", ["pause", "resume", "go-back", "all-at-once"])
def test_an_order_goes_to_its_route_with_its_reason(
    command: Command, desk: Standin, capsys: pytest.CaptureFixture[str], order: str
) -> None:
    answers(desk, f"{PATH}/{order}", rollout(stage="paused", reason="Bob paused it: let me look"))
    assert command("rollout", order, "prm_1", "--reason", "let me look") == 0
    [seen] = desk.calls(f"{PATH}/{order}")
    assert (seen.method, json.loads(seen.body)) == ("POST", {"reason": "let me look"})
    assert "  paused: Bob paused it: let me look" in capsys.readouterr().out
    assert command("rollout", order, "prm_1", "--json") == 0


def test_nothing_is_said_of_a_target_that_a_person_could_misread() -> None:
    lines = said({"state": "rolling_out", "rollout": rollout(stage="paused", reason="no \x1b[31mroom")})
    assert "  step 2 of 3: 10 % of the requests: paused, held until 2026-10-01T06:05:00Z" in lines
    assert "\x1b" not in "".join(lines)
    by_hand = rollout()
    by_hand["steps"][1] |= {"hold_s": None, "held_until": None}
    lines = said({"state": "rolling_out", "rollout": by_hand})
    assert any("held until somebody says `countersign rollout resume`" in line for line in lines)


def test_a_rollout_that_goes_back_is_waited_for() -> None:
    going = {"state": "failed", "settled": True, "rollout": rollout(stage="going_back")}
    assert end_of(going) is None
    assert end_of({**going, "rollout": rollout(stage="undone")}) is Exit.FAILED
    assert end_of({"state": "failed", "settled": True, "rollout": None}) is Exit.FAILED


def test_a_target_that_is_to_serve_nothing_says_so(
    command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    removed = {
        "name": "ray",
        "action": "remove",
        "version": "7",
        "weight": 0,
        "phase": "Progressing",
        "message": "soon",
    }
    answers(desk, PATH, rollout(stage="going_back", targets=[removed]))
    assert command("rollout", "show", "prm_1") == 0
    out = capsys.readouterr().out
    assert "  ray: nothing: Progressing, soon" in out
    assert "  step 3 of 3: 100 % of the requests: not reached" in out
