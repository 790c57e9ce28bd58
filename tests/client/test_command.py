"""The command, as somebody types it: what is on stdout, and how it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import countersign_client
import pytest
from countersign_client.store import Login, LoginStore

from tests.client.standin import Seen, Standin

KeepLogin = Callable[..., Login]
Command = Callable[..., int]


def test_login_without_a_screen_shows_a_code_and_then_what_to_export(
    command: Command, gateway: Standin, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway.answers["/control/v1/logins"] = lambda _: (200, {"items": [{"expires_at": "2030-01-02T03:04:05+00:00"}]})
    assert command("login", gateway.url) == 0
    out, err = capsys.readouterr()
    assert "WDJB-MJHT" in err
    assert f"{gateway.url}/auth/device?user_code=WDJB-MJHT" in err
    assert f"Signed in at {gateway.url} as ada, for registry, track." in out
    assert "until 2030-01-02 03:04 UTC" in out
    assert f"export MLFLOW_TRACKING_URI={gateway.url}\n" in out
    assert "export MLFLOW_TRACKING_AUTH=countersign\n" in out
    assert "cs_log" not in out + err
    (asked,) = gateway.forms("/auth/device_authorization")
    assert asked["scope"] == "promote registry resolve track", "neither approve nor admin, unless they are named"


def test_login_says_when_another_credential_would_win(
    command: Command, gateway: Standin, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "cs_pat_0")
    assert command("login", gateway.url, "--device", "--scope", "approve") == 0
    assert "unset MLFLOW_TRACKING_TOKEN" in capsys.readouterr().out
    assert [form["scope"] for form in gateway.forms("/auth/device_authorization")] == ["approve"]


def test_login_with_a_screen_opens_the_browser(
    command: Command, gateway: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    import requests

    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.delenv("SSH_TTY", raising=False)
    opened: list[threading.Thread] = []

    def open_page(page: str) -> bool:
        opened.append(threading.Thread(target=lambda: requests.get(gateway.back_from(page), timeout=10)))
        opened[0].start()
        return True

    monkeypatch.setattr("webbrowser.open", open_page)
    assert command("login", gateway.url) == 0
    opened[0].join()
    assert not gateway.forms("/auth/device_authorization")


def test_whoami_says_who_and_by_which_scopes(
    command: Command, gateway: Standin, signed_in: KeepLogin, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_in()
    assert command("whoami") == 0
    assert capsys.readouterr().out.startswith(f"ada at {gateway.url}\n")
    assert command("whoami", gateway.url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["scopes"] == ["track"]


def test_each_end_has_its_status(
    command: Command, gateway: Standin, signed_in: KeepLogin, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("whoami", gateway.url) == 3
    assert capsys.readouterr().err == (
        f"countersign: You are not signed in at {gateway.url}, and no token is in COUNTERSIGN_TOKEN or "
        f"COUNTERSIGN_ID_TOKEN_FILE. Run: countersign login {gateway.url}\n"
    )
    assert command("whoami") == 2
    assert command("whoami", "http://gateway.example") == 2
    assert command("login", "http://127.0.0.1:1") == 4
    signed_in()
    gateway.answers["/control/v1/tokens/tok_1"] = lambda _: (403, {"detail": "It is not yours."})
    assert command("token", "revoke", "tok_1") == 1
    assert capsys.readouterr().err.endswith("countersign: It is not yours.\n")


def test_the_gateway_is_the_one_mlflow_uses(
    command: Command, gateway: Standin, signed_in: KeepLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed_in()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1/")
    assert command("whoami") == 3
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    assert command("whoami") == 0


def test_a_new_token_is_alone_on_stdout(
    command: Command, gateway: Standin, signed_in: KeepLogin, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_in()
    made = {"id": "tok_1", "token": "cs_pat_1", "expires_at": "2030-01-02T03:04:05+00:00"}
    gateway.answers["/control/v1/tokens"] = lambda _: (201, made)
    assert command("token", "create", "--name", "nightly", "--scope", "track", "--days", "7") == 0
    out, err = capsys.readouterr()
    assert out == "cs_pat_1\n"
    assert "2030-01-02 03:04 UTC" in err
    assert "cs_pat_1" not in err
    (asked,) = gateway.calls("/control/v1/tokens")
    assert json.loads(asked.body) == {"name": "nightly", "scopes": ["track"], "expires_in_days": 7}
    assert command("token", "create", "--name", "nightly", "--scope", "track", "--json") == 0
    assert json.loads(capsys.readouterr().out) == made


def test_tokens_are_listed_to_the_last_page(
    command: Command, gateway: Standin, signed_in: KeepLogin, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_in()

    def page(seen: Seen) -> tuple[int, dict[str, object]]:
        second = seen.query.get("cursor") == "more"
        item = {"id": f"tok_{1 + second}", "name": "[bold]x", "scopes": ["track"], "revoked_at": None}
        return 200, {"items": [item], "next_cursor": None if second else "more"}

    gateway.answers["/control/v1/tokens"] = page
    assert command("token", "list", "--json") == 0
    assert [item["id"] for item in json.loads(capsys.readouterr().out)["items"]] == ["tok_1", "tok_2"]
    assert command("token", "list") == 0
    assert "[bold]x" in capsys.readouterr().out


def test_a_pipeline_exchanges_its_own_token_and_never_as_an_argument(
    command: Command,
    gateway: Standin,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: object,
) -> None:
    monkeypatch.setenv("CI_JWT", "ey.one.two")
    assert command("exchange", gateway.url, "--scope", "track", piped="ey.one.two\n") == 0
    assert capsys.readouterr().out == "cs_log_1\n"
    assert command("exchange", gateway.url, "--scope", "track", "--subject-token-env", "CI_JWT") == 0
    assert command("exchange", gateway.url, "--scope", "track", piped="cs_pat_1") == 0
    kinds = [(form["subject_token"], form["subject_token_type"][-12:]) for form in gateway.forms("/auth/token")]
    assert kinds == [("ey.one.two", "oken-type:jwt"[-12:])] * 2 + [("cs_pat_1", "access_token")]
    assert command("exchange", gateway.url, "--scope", "track", piped=" \n") == 2
    assert command("exchange", gateway.url, "--scope", "track", "--subject-token-env", "NONE") == 2
    assert command("exchange", gateway.url, "--scope", "track", "--subject-token-file", "/nowhere") == 2
    gateway.answers["/auth/token"] = lambda _: (400, {"error": "invalid_scope", "error_description": "Not that."})
    assert command("exchange", gateway.url, "--scope", "approve", piped="ey.one.two") == 1
    assert "countersign: Not that." in capsys.readouterr().err


def test_logout_ends_the_login(
    command: Command, gateway: Standin, signed_in: KeepLogin, capsys: pytest.CaptureFixture[str]
) -> None:
    signed_in()
    assert command("logout") == 0
    assert capsys.readouterr().out == f"Signed out at {gateway.url}.\n"
    assert gateway.ended
    assert command("logout", gateway.url) == 0
    assert "were not signed in" in capsys.readouterr().out


def test_in_a_notebook_a_function_does_the_same(
    gateway: Standin, store: LoginStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Set by it for this process; so that they are gone again afterwards.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "")
    countersign_client.login(gateway.url, scopes=["track"])
    assert "WDJB-MJHT" in capsys.readouterr().out
    assert os.environ["MLFLOW_TRACKING_AUTH"] == "countersign"
    assert countersign_client.access_token(gateway.url) == gateway.access
    assert countersign_client.logout(gateway.url)
    assert store.all() == {}
    with pytest.raises(countersign_client.Unreachable):  # a second call, too: no module has taken its name
        countersign_client.login("http://127.0.0.1:1")
