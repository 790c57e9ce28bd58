"""The commands of a pipeline: what they send, what they say while they wait, and how each end is told apart."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from countersign_client import credentials, following
from countersign_client.cli.promotions import State as ListedState
from countersign_client.credentials import token_for
from countersign_client.digests import digest_of
from countersign_client.errors import NotSignedIn, TokenRefused, Unreachable
from countersign_client.following import Exit, end_of, follow, said
from countersign_client.scopes import Scope as ClientScope
from countersign_client.store import Login, LoginStore
from countersign_client.wire import plain, written

from app.domain.digests import FileDigest, tree_digest
from app.domain.identity import Scope
from app.domain.promotions import State
from tests.client.standin import Answer, Seen, Standin

Command = Callable[..., int]
ID = "prm_1"
WHAT = ("--model", "iris", "--version", "7", "--alias", "production")
PATH = f"/control/v1/promotions/{ID}"
WAITS = {
    "rule": "approvals",
    "name": "risk",
    "standing": "waiting",
    "message": "0 of 1 approvals by group risk.",
    "who": "group risk",
}
FAILED = {"rule": "check", "name": "fairness", "standing": "blocked", "message": "Pipeline: failed, parity 0.4."}


@pytest.fixture(autouse=True)
def quick(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody waits, and nothing is left of an exchanged token."""
    monkeypatch.setattr(following, "_PAUSES_S", (0.001, 0.002))
    yield
    credentials._short.clear()


@pytest.fixture
def pipeline(gateway: Standin, store: LoginStore, monkeypatch: pytest.MonkeyPatch) -> Standin:
    """A gateway that knows the token in this process's environment."""
    monkeypatch.setenv("COUNTERSIGN_URL", gateway.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", gateway.access)
    gateway.answers["/control/v1/promotions"] = lambda _: (201, promotion("pending"))
    return gateway


def promotion(state: str, *, revision: int = 1, **more: object) -> dict[str, object]:
    found = {"id": ID, "state": state, "settled": False, "model": "iris", "alias": "production", "to_version": "7"}
    return {**found, "etag": f'"{ID}.{revision}"', **more}


def goes(gateway: Standin, *steps: Mapping[str, object]) -> None:
    """Each question is answered by the next step; the last one stays."""
    left = list(steps)

    def answer(_: Seen) -> Answer:
        step = left.pop(0) if len(left) > 1 else left[0]
        return int(str(step.get("status", 200))), step

    gateway.answers[PATH] = answer


APPLIED = promotion("applied", revision=9, settled=True)


@pytest.mark.parametrize(
    ("detail", "status"),
    [
        (APPLIED, 0),
        (promotion("live", settled=True), 0),
        (promotion("rejected", settled=True, state_reason="rejected by bob: too slow"), 5),
        (promotion("pending", blocked=True, rules=[FAILED]), 6),
        (promotion("failed", settled=True), 7),
        (promotion("stale", settled=True, state_reason="the artifacts changed"), 7),
        (promotion("withdrawn", settled=True), 9),
        (promotion("superseded", settled=True), 9),
        (promotion("expired", settled=True), 9),
        (promotion("rolled_back", settled=True), 9),
    ],
)
def test_each_end_has_a_status_of_its_own(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str], detail: dict[str, object], status: int
) -> None:
    goes(pipeline, promotion("pending", rules=[WAITS]), detail)
    assert command("promote", *WHAT, "--wait", "--json") == status
    out, err = capsys.readouterr()
    assert json.loads(out)["state"] == detail["state"]
    assert "waiting: risk: 0 of 1 approvals by group risk." in err
    assert str(detail.get("state_reason", "")) in err
    assert ("stays open" in err) == (status == 6)
    waits = [seen for seen in pipeline.calls(PATH) if "wait" in seen.query]
    assert [seen.headers["If-None-Match"] for seen in waits] == [f'"{ID}.1"']


def test_every_state_goes_on_or_ends() -> None:
    settled = {state: end_of(promotion(state, settled=True)) for state in State}
    assert {state for state, ended in settled.items() if ended is Exit.DONE} >= {State.APPLIED, State.LIVE}
    for state in (State.REJECTED, State.FAILED, State.STALE, State.WITHDRAWN, State.SUPERSEDED, State.EXPIRED):
        assert end_of(promotion(state)) not in {None, Exit.DONE}
    for state in (State.PENDING, State.APPROVED, State.APPLYING, State.APPLIED, State.ROLLING_OUT):
        assert end_of(promotion(state)) is None
    assert {each.value for each in ListedState} == {each.value for each in State}
    assert {each.value for each in ClientScope} == {each.value for each in Scope}


def test_without_waiting_the_id_is_alone_on_stdout(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("promote", *WHAT, "--reason", "r2 0.52", "--at", "2030-01-01T06:00+02:00", "--workspace", "w") == 0
    assert capsys.readouterr().out == f"{ID}\n"
    (asked,) = pipeline.calls("/control/v1/promotions")
    assert json.loads(asked.body) == {
        "model": "iris",
        "version": "7",
        "alias": "production",
        "reason": "r2 0.52",
        "workspace": "w",
        "scheduled_for": "2030-01-01T06:00:00+02:00",
    }


def test_what_is_said_is_said_once(command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    half = {"read_bytes": 512 * 1024, "total_bytes": 1024 * 1024}
    whole = {"read_bytes": 1024 * 1024, "total_bytes": 1024 * 1024}
    goes(
        pipeline,
        promotion("pending", reading=half),
        promotion("pending", reading=half),
        promotion("pending", reading=whole),
        promotion("pending", revision=2, rules=[WAITS], opens_at="2030-01-01T06:00:00Z"),
        promotion("rolling_out", revision=3, deployments=[{"target": "ray", "phase": "Progressing", "message": "1/2"}]),
        APPLIED,
    )
    assert command("promote", *WHAT, "--wait") == 0
    out, err = capsys.readouterr()
    assert out == f"{ID} applied\n"
    assert err.splitlines() == [
        f"{ID}: version 7 of iris to production",
        "pending",
        "  reading the artifacts: 50 % of 1.0 MiB",
        "  reading the artifacts: 100 % of 1.0 MiB",
        "  waiting: risk: 0 of 1 approvals by group risk.",
        "  not before 2030-01-01T06:00:00Z",
        "rolling_out",
        "  ray: Progressing, 1/2",
        "applied",
    ]
    assert float(pipeline.calls(PATH)[1].query["wait"]) <= 5, "while it is read, it is looked at more often"


def test_nothing_that_a_terminal_would_obey_is_said() -> None:
    bad = "\x1b[2J\nrm \x9b2J \u202ecba\u3164 \x7f \ud800"
    lines = said(promotion("pending", rules=[{**WAITS, "message": bad}], void_reason="\x07void"))
    assert all(character.isprintable() for line in lines for character in line)
    assert plain(bad) == "[U+001B][2J rm [U+009B]2J [U+202E]cba[U+3164] [U+007F] [U+D800]"
    assert plain("می\u200cخواهم é") == "می\u200cخواهم é"
    assert written({"é": bad}).isprintable()
    assert json.loads(written({"é": bad})) == {"é": bad}
    assert json.loads(written("\U000e0041")) == "\U000e0041"


def test_a_gateway_that_restarts_is_waited_for(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [(503, {}), (502, {}), (200, promotion("pending"))]
    pipeline.answers["/control/v1/promotions"] = lambda _: made.pop(0)
    goes(pipeline, promotion("pending"), {"status": 503}, {"status": 429}, APPLIED)
    assert command("promote", *WHAT, "--wait") == 0
    err = capsys.readouterr().err
    assert err.count("Trying on …") == err.count("The gateway answers again.") == 2


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        (("rollback", "-m", "iris", "-a", "production", "--wait"), "models/iris/aliases/production/rollback"),
        (
            ("break-glass", "-m", "iris", "-v", "6", "-a", "production", "-r", "NaN", "--wait"),
            "models/iris/aliases/production/break-glass",
        ),
        (("comment", ID, "see the report"), f"promotions/{ID}/comments"),
        (("delegate", "--to", "ada", "--until", "2030-01-01T00:00Z"), "delegations"),
    ],
)
def test_what_is_asked_for_again_is_done_once(
    command: Command, pipeline: Standin, arguments: tuple[str, ...], path: str
) -> None:
    goes(pipeline, APPLIED)
    made = [(503, {}), (502, {}), (201, APPLIED)]
    pipeline.answers[f"/control/v1/{path}"] = lambda _: made.pop(0)
    assert command(*arguments) == 0
    keys = [seen.headers["Idempotency-Key"] for seen in pipeline.calls(f"/control/v1/{path}")]
    assert len(keys) == 3
    assert len(set(keys)) == 1, "a second rollback would go back one further"


def test_the_time_is_over(pipeline: Standin) -> None:
    goes(pipeline, promotion("pending"))
    assert follow(pipeline.url, ID, timeout_s=0.05, say=print).exit is Exit.TIMED_OUT
    goes(pipeline, promotion("pending"), {"status": 503})
    with pytest.raises(Unreachable):
        follow(pipeline.url, ID, timeout_s=0.05, say=print)


def test_timeouts_and_absent_gateways_end_the_command(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(seconds)))  # one for each look
    goes(pipeline, promotion("pending"))
    assert command("promote", *WHAT, "--wait", "--timeout", "9s") == 8
    assert f"countersign withdraw {ID}" in capsys.readouterr().err
    assert command("promotions", "show", ID, "--wait", "--timeout", "9s") == 8
    assert command("promote", *WHAT, "--gateway", "http://127.0.0.1:1") == 4


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_who_stops_it_leaves_the_promotion_open_and_is_told(
    command: Command, pipeline: Standin, how: signal.Signals
) -> None:
    asked = threading.Event()

    def waits(_: Seen) -> Answer:
        asked.set()
        time.sleep(0.2)
        return 200, promotion("pending")

    pipeline.answers[PATH] = waits
    # A process of its own: where tests run in the background, a shell may have them ignore an interrupt.
    listening = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = ["promote", *WHAT, "--wait"]
    running = subprocess.Popen(
        [sys.executable, "-c", f"{listening}; from countersign_client.cli import main; main()", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert asked.wait(60)
    running.send_signal(how)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "stays open" in err


def test_a_token_that_ends_while_it_waits_is_said(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    goes(pipeline, promotion("pending"), {"status": 401})
    assert command("promote", *WHAT, "--wait") == 3
    err = capsys.readouterr().err
    assert "does not accept the token in COUNTERSIGN_TOKEN" in err
    assert "stays open" in err
    assert pipeline.access not in err


def test_who_signed_in_too_long_ago_is_told_where_to_do_it_anew(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    page = f"{pipeline.url}/auth/sign-in?max_age=300"
    wanted = {"detail": "You must have done so within the last 300 seconds.", "sign_in": page}
    pipeline.answers["/control/v1/models/iris/aliases/production/break-glass"] = lambda _: (401, wanted)
    assert command("break-glass", *WHAT, "--reason", "7 answers NaN") == 3
    err = capsys.readouterr().err
    assert f"within the last 300 seconds. Sign in anew at {page} and then run: countersign login" in err
    assert "COUNTERSIGN_TOKEN" not in err


@pytest.mark.parametrize(("status", "ended"), [(403, 1), (404, 1), (409, 1), (400, 2), (422, 2), (503, 4)])
def test_a_refusal_is_told_in_the_gateways_words(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str], status: int, ended: int
) -> None:
    pipeline.answers["/control/v1/promotions"] = lambda _: (status, {"detail": "So it is."})
    assert command("promote", *WHAT) == ended
    assert status == 503 or "countersign: So it is." in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("promote", "--model", "iris"),
        ("promote", *WHAT, "--timeout", "soon"),
        ("promote", *WHAT, "--timeout", "0s"),
        ("promote", *WHAT, "--at", "2030-01-01T06:00"),
        ("promote", *WHAT, "--at", "tomorrow"),
        ("check", "post", "fairness", "--outcome", "pass"),
        ("check", "post", "fairness", "--outcome", "pass", "--promotion", ID, "--model", "iris"),
        ("check", "post", "fairness", "--outcome", "perhaps", "--promotion", ID),
        ("check", "post", "fairness", "--outcome", "pass", "--promotion", ID, "--ttl", "long"),
    ],
)
def test_what_is_typed_wrongly_is_not_sent(command: Command, pipeline: Standin, arguments: tuple[str, ...]) -> None:
    assert command(*arguments) == 2
    assert not pipeline.seen


# Other commands.


def test_explaining_has_a_table_and_three_ends(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, Any] = {"allowed": False, "blocked": False, "rules": [WAITS], "version": "7", "waits_for": "risk"}
    pipeline.answers["/control/v1/promotions/explain"] = lambda _: (200, found)
    assert command("explain", *WHAT) == 10
    assert "0 of 1 approvals by group risk." in capsys.readouterr().out
    found |= {"blocked": True}
    assert command("explain", *WHAT, "--json") == 6
    assert json.loads(capsys.readouterr().out)["blocked"]
    found |= {"allowed": True}
    assert command("explain", *WHAT, "--at", "2030-01-01T06:00Z") == 0
    assert "Nothing stands in the way." in capsys.readouterr().out
    asked = pipeline.calls("/control/v1/promotions/explain")[-1].query
    assert asked == {
        "model": "iris",
        "version": "7",
        "alias": "production",
        "scheduled_for": "2030-01-01T06:00:00+00:00",
    }


def test_without_a_version_the_policy_is_explained(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"name": "default", "revision": 1}
    found = {"policy": {"name": "risky", "revision": 3}, "why": "It names the model.", "others": [other]}
    pipeline.answers["/control/v1/policies/for"] = lambda _: (200, found)
    assert command("explain", "--model", "iris", "--alias", "production") == 0
    said = capsys.readouterr().out
    assert said == "policy risky, revision 3\nIt names the model.\n  it matches too: default, revision 1\n"


def test_a_check_is_posted_on_a_version_or_a_promotion(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    on_version, on_promotion = "/control/v1/models/my%20model/versions/7/checks/bias%202", f"{PATH}/checks/bias%202"
    for path in (on_version, on_promotion):
        pipeline.answers[path] = lambda _: (201, {"id": "chk_1"})
    more = ("--outcome", "pass", "--link", "https://ci.example/1", "--ttl", "1d", "--digest", "sha256:0")
    assert command("check", "post", "bias 2", "--model", "my model", "--version", "7", *more) == 0
    assert capsys.readouterr().out == "chk_1\n"
    (posted,) = pipeline.calls(on_version)
    assert json.loads(posted.body) == {
        "outcome": "pass",
        "message": "",
        "link": "https://ci.example/1",
        "expires_in": 86_400,
        "digest": "sha256:0",
    }
    assert command("check", "post", "bias 2", "--promotion", ID, "--outcome", "fail", "--message", "no") == 0
    assert json.loads(pipeline.calls(on_promotion)[0].body) == {"outcome": "fail", "message": "no"}
    pipeline.answers[f"{PATH}/checks"] = lambda _: (200, {"items": [{"name": "bias 2", "outcome": "fail"}]})
    assert command("check", "list", "--promotion", ID, "--all") == 0
    assert "bias 2" in capsys.readouterr().out
    assert pipeline.calls(f"{PATH}/checks")[0].query == {"all": "true"}


def test_the_digest_of_a_folder_is_the_gateways(command: Command, pipeline: Standin, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "é").write_bytes(b"x" * 3_000_000)
    (folder / "data.txt").write_bytes(b"")
    files = [FileDigest(path, 0, sha256((folder / path).read_bytes()).hexdigest()) for path in ("data/é", "data.txt")]
    assert digest_of(folder) == tree_digest(files)
    path = "/control/v1/models/iris/versions/7/checks/bias"
    pipeline.answers[path] = lambda _: (201, {"id": "chk_1"})
    what = ("check", "post", "bias", "-m", "iris", "-v", "7", "-o", "pass", "--folder", str(folder))
    assert command(*what) == 0
    assert json.loads(pipeline.calls(path)[0].body)["digest"] == tree_digest(files)
    assert command(*what, "--digest", "sha256:0") == 2
    (folder / "link").symlink_to("data.txt")
    assert command(*what) == 2
    assert command(*what[:-1], str(tmp_path / "nowhere")) == 2


def test_what_was_shown_is_what_is_approved(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    goes(pipeline, promotion("pending", revision=4, from_version="6", digest="sha256:1", rules=[WAITS]))
    pipeline.answers[f"{PATH}/approve"] = lambda _: (200, promotion("approved"))
    assert command("approve", ID, "--reason", "agreed", "--on-behalf-of", "i|ada") == 0
    out, err = capsys.readouterr()
    assert out == f"{ID} approved\n"
    assert "version 7 of iris to production, which version 6 holds" in err
    (sent,) = pipeline.calls(f"{PATH}/approve")
    assert sent.headers["If-Match"] == f'"{ID}.4"'
    assert json.loads(sent.body) == {"reason": "agreed", "on_behalf_of": "i|ada"}


@pytest.mark.parametrize(
    ("arguments", "path", "body"),
    [
        (("reject", ID, "--reason", "no"), f"{PATH}/reject", {"reason": "no"}),
        (("withdraw", ID), f"{PATH}/withdraw", {"reason": ""}),
        (("comment", ID, "see the report"), f"{PATH}/comments", {"text": "see the report"}),
        (
            ("rollback", "--model", "iris", "--alias", "production", "--reason", "worse"),
            "/control/v1/models/iris/aliases/production/rollback",
            {"reason": "worse"},
        ),
        (
            ("break-glass", "-m", "iris", "-v", "6", "-a", "production", "-r", "NaN", "--ticket", "INC-42"),
            "/control/v1/models/iris/aliases/production/break-glass",
            {"version": "6", "reason": "NaN", "ticket": "INC-42"},
        ),
        (("review", ID, "--comment", "it was so"), f"{PATH}/review", {"comment": "it was so"}),
        (
            ("delegate", "--to", "ada", "--until", "2030-01-01T00:00Z", "--models", "fraud-*", "--reason", "on leave"),
            "/control/v1/delegations",
            {"to": "ada", "ends_at": "2030-01-01T00:00:00+00:00", "models": "fraud-*", "reason": "on leave"},
        ),
    ],
)
def test_each_command_calls_its_route(
    command: Command, pipeline: Standin, arguments: tuple[str, ...], path: str, body: dict[str, str]
) -> None:
    goes(pipeline, promotion("pending"))
    pipeline.answers[path] = lambda _: (200, promotion("pending"))
    assert command(*arguments) == 0
    (sent,) = pipeline.calls(path)
    assert (sent.method, json.loads(sent.body)) == ("POST", body)


def test_the_workspace_of_an_alias_is_in_the_address(command: Command, pipeline: Standin) -> None:
    for verb, more in (("rollback", ()), ("break-glass", ("-v", "6", "-r", "NaN"))):
        path = f"/control/v1/models/iris/aliases/production/{verb}"
        pipeline.answers[path] = lambda _: (201, promotion("pending"))
        assert command(verb, "-m", "iris", "-a", "production", "--workspace", "team-a", *more) == 0
        assert pipeline.calls(path)[0].query == {"workspace": "team-a"}
        assert "workspace" not in json.loads(pipeline.calls(path)[0].body)


def test_reviews_and_delegations_are_listed_and_ended(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    review = {"promotion_id": ID, "model": "iris", "broken_by": {"name": "bob"}, "reason": "NaN", "closed_by": None}
    pipeline.answers["/control/v1/reviews"] = lambda _: (200, {"items": [review], "next_cursor": None})
    assert command("reviews") == 0
    assert {"bob", "NaN"} <= set(capsys.readouterr().out.split())
    assert command("reviews", "--all", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"items": [review]}
    assert [seen.query for seen in pipeline.seen] == [{"open": "true", "limit": "50"}, {"limit": "50"}]
    delegation = {"id": "dlg_1", "delegator": {"name": "ada"}, "delegate": {"name": "eve"}, "models": "fraud-*"}
    pipeline.answers["/control/v1/delegations"] = lambda _: (200, {"items": [delegation]})
    assert command("delegations") == 0
    assert {"dlg_1", "ada", "eve", "fraud-*"} <= set(capsys.readouterr().out.split())
    assert command("delegations", "--all", "--json") == 0
    assert [seen.query for seen in pipeline.calls("/control/v1/delegations")] == [
        {"active": "true", "limit": "50"},
        {"limit": "50"},
    ]
    pipeline.answers["/control/v1/delegations/dlg_1"] = lambda _: (204, {})
    assert command("undelegate", "dlg_1") == 0
    assert pipeline.calls("/control/v1/delegations/dlg_1")[0].method == "DELETE"


def test_promotions_are_listed_to_the_limit_and_shown(
    command: Command, pipeline: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    by = {"name": "ada"}
    page = {"items": [promotion("pending", requested_by=by, waits_for="risk")], "next_cursor": "more"}
    pipeline.answers["/control/v1/promotions"] = lambda _: (200, page)
    assert command("promotions", "list", "--awaiting-me", "--mine", "--state", "pending", "--limit", "3") == 0
    assert capsys.readouterr().out.count(ID) == 3
    assert pipeline.seen[1].query["cursor"] == "more"
    assert pipeline.seen[0].query.items() >= {"awaiting_me": "true", "mine": "true", "state": "pending"}.items()
    assert command("promotions", "list", "--json", "--limit", "1") == 0
    assert json.loads(capsys.readouterr().out)["items"][0]["id"] == ID
    page_of_it = f"https://countersign.example/console/promotions/{ID}"
    goes(
        pipeline,
        promotion(
            "pending", requested_by=by, policy={"name": "production", "revision": 2}, rules=[WAITS], console=page_of_it
        ),
    )
    assert command("promotions", "show", ID) == 0
    shown = capsys.readouterr().out
    assert "production/2" in shown
    assert page_of_it in shown
    assert "0 of 1 approvals by group risk." in shown


# Whose token goes where.


def test_mlflows_token_goes_to_mlflows_server_alone(
    gateway: Standin, elsewhere: Standin, store: LoginStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{gateway.url}/")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "for-mlflow")
    assert token_for(gateway.url) == "for-mlflow"
    with pytest.raises(NotSignedIn):
        token_for(elsewhere.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", "ours")
    assert token_for(gateway.url) == token_for(elsewhere.url) == "ours"
    with pytest.raises(TokenRefused, match="COUNTERSIGN_TOKEN"):
        token_for(gateway.url, refused="ours")
    with pytest.raises(NotSignedIn):
        token_for(gateway.url, store=store)


def test_a_pipelines_identity_is_exchanged_and_renewed(
    gateway: Standin, store: LoginStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERSIGN_ID_TOKEN", "ey.gitlab.jwt")
    first = token_for(gateway.url)
    assert token_for(gateway.url) == first
    assert token_for(gateway.url, refused=first) != first
    forms = gateway.forms("/auth/token")
    assert [(form["subject_token"], form["scope"]) for form in forms] == [("ey.gitlab.jwt", "promote")] * 2
    gateway.answers["/auth/token"] = lambda _: (400, {"error": "invalid_grant", "error_description": "It is over."})
    credentials._short.clear()
    with pytest.raises(NotSignedIn, match="does not accept the pipeline's identity: It is over"):
        token_for(gateway.url)


def test_a_token_that_is_good_still_is_used_while_the_gateway_is_away(
    gateway: Standin, store: LoginStore, no_credentials: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COUNTERSIGN_ID_TOKEN", "ey.gitlab.jwt")
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    first = token_for(gateway.url)
    gateway.answers["/auth/token"] = lambda _: (503, {})
    now[0] += gateway.lasts - 60
    assert token_for(gateway.url) == first
    now[0] += 60
    with pytest.raises(Unreachable):
        token_for(gateway.url)


def test_in_github_actions_the_identity_is_fetched(
    gateway: Standin,
    elsewhere: Standin,
    signed_in: Callable[..., Login],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere.answers["/oidc"] = lambda _: (200, {"value": "ey.github.jwt"})
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{elsewhere.url}/oidc?api-version=2.0")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "github's own")
    monkeypatch.setenv("COUNTERSIGN_AUDIENCE", "models")
    assert token_for(gateway.url) == gateway.access
    (asked,) = elsewhere.calls("/oidc")
    assert asked.query == {"api-version": "2.0", "audience": "models"}
    assert asked.headers["Authorization"] == "Bearer github's own"
    assert gateway.forms("/auth/token")[0]["subject_token"] == "ey.github.jwt"
    elsewhere.answers["/oidc"] = lambda _: (403, {})
    with pytest.raises(NotSignedIn, match="GitHub gave no identity token"):
        token_for(gateway.url, refused=gateway.access)
    login = signed_in()
    assert token_for(gateway.url) == login.access_token, "who signed in on this machine is that person"


def test_the_light_command_needs_nothing_of_the_server() -> None:
    script = (
        "import sys, countersign_client.cli;"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'app', 'fastapi', 'httpx', 'sqlalchemy'}));"
        "sys.argv = ['countersign', '--help']; countersign_client.cli.cli()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("[]")
    assert " promote " in done.stdout
    assert " migrate " not in done.stdout
