"""``countersign deployments``: what it asks of the gateway, what a person reads, and the status it ends with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

import pytest
from countersign_client.cli.deployments import Phase as ListedPhase
from countersign_client.following import Exit
from countersign_client.store import LoginStore

from app.domain.phases import Phase
from tests.client.standin import Answer, Seen, Standin

Command = Callable[..., int]
deployments = import_module("countersign_client.cli.deployments")
BASE = "/control/v1"


def deployment(**changed: object) -> dict[str, object]:
    return {
        "id": "dep_1",
        "target": "ray-prod",
        "resource": "iris",
        "action": "apply",
        "version": "7",
        "weight": 100,
        "stable": None,
        "generation": 3,
        "phase": "Ready",
        "reason": "",
        "message": "",
        "digest": "sha256:00",
        "promotion_id": "prm_1",
        "served": {"version": "7", "generation": 3, "promotion_id": "prm_1", "since": "2026-10-01T06:00:00Z"},
        "serving": [
            {"version": "7", "weight": 100, "ready": True, "url": "http://ray/iris", "name": "", "digest": None}
        ],
        "health": "healthy",
        "heard_at": "2026-10-01T07:00:00Z",
        "obstacle": None,
        "drift": None,
        "drifted_since": None,
        "drift_message": "",
        **changed,
    }


SICK = deployment(
    phase="Errored",
    reason="Unhealthy",
    message="out of \x1b[31mmemory",
    health="unhealthy",
    drift="unhealthy",
    drifted_since="2026-10-01T08:00:00Z",
    drift_message="Version 7 is not well (Unhealthy: out of memory).",
)


@pytest.fixture
def desk(gateway: Standin, store: LoginStore, signed_in: Callable[..., object]) -> Standin:
    del store
    signed_in()
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


def test_the_phases_are_the_gateways() -> None:
    assert {each.value for each in ListedPhase} == {each.value for each in Phase}


def test_what_runs_where_is_listed_and_drift_ends_with_a_status(
    command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(desk, "/deployments", {"items": [SICK], "next_cursor": None})
    assert command("deployments", "list", "--model", "iris", "--target", "ray-prod", "--phase", "Errored") == 0
    out = capsys.readouterr().out
    for said in ("dep_1", "ray-prod", "iris", "unhealthy", "2026-10-01T06:00:00Z"):
        assert said in out
    query = asked(desk, "/deployments")
    assert {name: query[name] for name in ("model", "target", "phase")} == {
        "model": "iris",
        "target": "ray-prod",
        "phase": "Errored",
    }
    assert command("deployments", "list", "--drift", "--json") == Exit.FAILED
    assert json.loads(capsys.readouterr().out)["items"] == [SICK]
    assert desk.calls(f"{BASE}/deployments")[-1].query["drifted"] == "true"
    answers(desk, "/deployments", {"items": [], "next_cursor": None})
    assert command("deployments", "list", "--drift") == 0


CANARY: dict[str, object] = {"version": "8", "weight": 10, "stable": {"version": "7"}}


def shares(*told: tuple[str, int]) -> list[dict[str, object]]:
    return [{"version": version, "weight": weight, "ready": weight != 15} for version, weight in told]


@pytest.mark.parametrize(
    ("said", "shown", "changed"),
    [
        ("7", "version 7 since 2026-10-01T06:00:00Z, by prm_1", {}),
        ("7 (90 %), 8 (10 %)", "7 (90 %), 8 (10 %)", {"serving": shares(("8", 10), ("7", 90))}),
        ("7 (85 %), 8 (15 %, not ready)", "served alone  version 7, from", {"serving": shares(("7", 85), ("8", 15))}),
        ("7", "version 7 since", {"serving": shares(("8", 0), ("7", 100))}),
        (
            "7 (90 %), 8 (10 %)",
            "served alone",
            {"serving": [], "version": "8", "weight": 10, "stable": {"version": "7"}},
        ),
        ("7", "version 7 since", {"serving": [], "version": "8", "phase": "Requested"}),
        ("", "nothing yet", {"serving": [], "served": None, "phase": "Requested"}),
    ],
)
def test_what_is_served_is_what_gets_requests(
    command: Command,
    desk: Standin,
    capsys: pytest.CaptureFixture[str],
    said: str,
    shown: str,
    changed: dict[str, object],
) -> None:
    found = deployment(**changed)
    assert deployments._shares_in_words(found) == said  # the table would be cut to the terminal's width
    answers(desk, "/deployments", {"items": [found], "next_cursor": None})
    assert command("deployments", "list") == 0
    is_alone = said == "7"
    assert ("2026-10-01T06:00:00Z" in capsys.readouterr().out) == is_alone
    answers(desk, "/deployments/dep_1", found)
    assert command("deployments", "show", "dep_1") == 0
    assert shown in capsys.readouterr().out


def test_one_is_shown_with_what_it_serves_and_should_and_its_history(
    command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(desk, "/deployments/dep_1", {**SICK, "obstacle": "it answered 503"})
    assert command("deployments", "show", "dep_1") == 0
    out = capsys.readouterr().out
    for said in ("iris on ray-prod", "version 7, by prm_1", "100 % at http://ray/iris", "[U+001B]", "it answered 503"):
        assert said in out
    assert "unhealthy since 2026-10-01T08:00:00Z" in out
    assert command("deployments", "show", "dep_1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["id"] == "dep_1"
    step = deployment(weight=10, stable={"version": "6"}, requested_at="2026-10-01T05:00:00Z", ready_at=None)
    gone = deployment(action="remove", generation=4, phase="Failed", reason="PolicyDenied", message="no")
    answers(desk, "/deployments/dep_1/generations", {"items": [gone, step], "next_cursor": None})
    assert command("deployments", "history", "dep_1") == 0
    out = capsys.readouterr().out
    for said in ("nothing", "PolicyDenied: no", "(10 %, version 6 the rest)"):
        assert said in out
    assert command("deployments", "history", "dep_1", "--json") == 0
    assert [each["generation"] for each in json.loads(capsys.readouterr().out)["items"]] == [4, 3]


@pytest.mark.parametrize(
    ("ends", "status"), [("Ready", 0), ("Failed", Exit.FAILED), ("Errored", Exit.FAILED), ("Accepted", Exit.TIMED_OUT)]
)
def test_deploying_again_is_waited_for(
    command: Command,
    desk: Standin,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
    status: int,
) -> None:
    monkeypatch.setattr(deployments, "_PAUSES_S", (0.001, 0.001))
    answers(desk, "/deployments/dep_1/redeploy", deployment(phase="Requested", generation=4))
    answers(desk, "/deployments/dep_1", deployment(phase="Progressing"), deployment(phase=ends, generation=4))
    if status == Exit.TIMED_OUT:
        monkeypatch.setattr(deployments, "seconds", lambda *_: 0.05)
    assert command("deployments", "redeploy", "dep_1", "--reason", "rebuilt", "--wait") == status
    out, err = capsys.readouterr()
    assert f"{ends} (generation 4)" in out
    assert "Requested (generation 4)" in err
    assert asked(desk, "/deployments/dep_1/redeploy") == {"reason": "rebuilt"}
    [seen] = desk.calls(f"{BASE}/deployments/dep_1/redeploy")
    assert seen.headers["Idempotency-Key"]


def test_taking_away_asks_first_and_says_why(
    command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    answers(desk, "/deployments/dep_1/remove", deployment(action="remove", phase="Requested", generation=4))
    assert command("deployments", "remove", "dep_1", "--reason", "not wanted") == 1  # nobody said yes
    assert desk.calls(f"{BASE}/deployments/dep_1/remove") == []
    assert command("deployments", "remove", "dep_1") == Exit.USAGE
    capsys.readouterr()
    assert command("deployments", "remove", "dep_1", "--reason", "not wanted", "--yes") == 0
    assert "nothing, by prm_1" in capsys.readouterr().out
    assert asked(desk, "/deployments/dep_1/remove") == {"reason": "not wanted"}
    answers(desk, "/deployments/dep_1/remove", deployment(action="remove", phase="Requested", generation=4))
    assert command("deployments", "remove", "dep_1", "--reason", "again", "--yes", "--json") == 0
    assert json.loads(capsys.readouterr().out)["action"] == "remove"


def test_what_is_desired_is_printed_whole(command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = {"deployment_id": "dep_1"}, {"deployment_id": "dep_2"}
    pages = [
        {"target": "ray", "items": [first], "next_after": "dep_1"},
        {"target": "ray", "items": [second], "next_after": None},
    ]
    answers(desk, "/targets/ray/desired", *pages)
    assert command("deployments", "desired", "ray") == 0
    assert json.loads(capsys.readouterr().out) == {"target": "ray", "items": [first, second]}
    assert [seen.query.get("after", "") for seen in desk.calls(f"{BASE}/targets/ray/desired")] == ["", "dep_1"]


def test_what_the_gateway_refuses_is_said(command: Command, desk: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    desk.answers[f"{BASE}/deployments/dep_1/redeploy"] = lambda _: (
        409,
        {"detail": "Promotion prm_2 is being rolled out."},
    )
    assert command("deployments", "redeploy", "dep_1") == Exit.REFUSED
    assert "prm_2 is being rolled out" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["show", "history", "redeploy"])
def test_a_model_is_no_deployment_and_where_its_id_is_found_is_said(
    command: Command, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert command("deployments", name, "iris") == Exit.USAGE
    assert "countersign deployments list" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_page_of_targets_that_say_much_is_read(command: Command, desk: Standin) -> None:
    large = [deployment(id=f"dep_{number}", message="m" * 10_000) for number in range(100)]
    desk.answers[f"{BASE}/deployments"] = lambda _: (200, {"items": large, "next_cursor": None})
    assert command("deployments", "list", "--limit", "100") == 0
