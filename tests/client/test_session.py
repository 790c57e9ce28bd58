"""A login that stays good: one refresh at a time, whatever the clock says, and an end that is told in words."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from countersign_client import access_token, logout
from countersign_client.errors import NotSignedIn, Unreachable
from countersign_client.store import Login, LoginStore

from tests.client.standin import Seen, Standin

KeepLogin = Callable[..., Login]


def test_a_fresh_token_is_used_without_asking(gateway: Standin, signed_in: KeepLogin) -> None:
    assert access_token(signed_in().gateway) == "cs_log_0"
    assert not gateway.seen


def test_an_old_token_is_refreshed_and_kept(gateway: Standin, store: LoginStore, signed_in: KeepLogin) -> None:
    signed_in(age_s=901)
    assert access_token(gateway.url) == "cs_log_1"
    assert access_token(gateway.url) == "cs_log_1"
    (form,) = gateway.forms("/auth/token")
    assert form == {"grant_type": "refresh_token", "refresh_token": "cs_ref_0", "client_id": "countersign-cli"}
    kept = store.get(gateway.url)
    assert kept
    assert kept.refresh_token == "cs_ref_1"


def test_a_token_is_refreshed_before_it_ends(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in(age_s=700)
    assert access_token(gateway.url) == "cs_log_1"


def test_a_clock_that_was_set_back_keeps_no_token_alive(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in(age_s=-3600)
    assert access_token(gateway.url) == "cs_log_1"


def test_a_token_that_the_gateway_did_not_take_is_refreshed(gateway: Standin, signed_in: KeepLogin) -> None:
    from countersign_client.session import access_token as token_of

    signed_in()
    assert token_of(gateway.url, refused="cs_log_0") == "cs_log_1"
    assert token_of(gateway.url, refused="cs_log_0") == "cs_log_1", "another has refreshed it already"
    assert len(gateway.forms("/auth/token")) == 1


def test_many_threads_refresh_once(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in(age_s=901)
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(access_token(gateway.url))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(got) == {"cs_log_1"}
    assert len(gateway.forms("/auth/token")) == 1


def _refresh(url: str, ready: multiprocessing.Barrier, got: multiprocessing.Queue[str]) -> None:  # type: ignore[valid-type]
    ready.wait()  # type: ignore[attr-defined]
    got.put(access_token(url))


def test_two_processes_that_refresh_at_once_ask_once(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in(age_s=901)
    slow = gateway.tokens

    def answer(seen: Seen) -> tuple[int, object]:
        time.sleep(0.1)
        return slow()

    gateway.answers["/auth/token"] = answer  # type: ignore[assignment]
    # Not forked: this process has threads.
    context = multiprocessing.get_context("spawn")
    ready, got = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_refresh, args=(gateway.url, ready, got)) for _ in range(2)]
    for process in processes:
        process.start()
    assert {got.get(timeout=60), got.get(timeout=60)} == {"cs_log_1"}
    for process in processes:
        process.join()
    assert len(gateway.forms("/auth/token")) == 1


def test_a_login_that_ended_is_forgotten_and_the_person_told(
    gateway: Standin, store: LoginStore, signed_in: KeepLogin
) -> None:
    signed_in(age_s=901)
    gateway.ended = True
    with pytest.raises(NotSignedIn, match=f"has ended. Run: countersign login {gateway.url}"):
        access_token(gateway.url)
    assert store.get(gateway.url) is None
    with pytest.raises(NotSignedIn, match=f"not signed in at {gateway.url}. Run: countersign login"):
        access_token(gateway.url)
    assert len(gateway.forms("/auth/token")) == 1, "a used token is not shown again and again"


def test_a_process_that_dies_before_it_wrote_costs_the_login_and_nothing_else(
    gateway: Standin, signed_in: KeepLogin
) -> None:
    signed_in(age_s=901)
    gateway.tokens()  # an answer that nobody kept
    with pytest.raises(NotSignedIn, match="Run: countersign login"):
        access_token(gateway.url)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_gateway_that_is_away_for_a_moment_ends_no_login(
    gateway: Standin, store: LoginStore, signed_in: KeepLogin, status: int
) -> None:
    signed_in(age_s=700)
    gateway.answers["/auth/token"] = lambda _: (status, {"error": "temporarily_unavailable"})
    assert access_token(gateway.url) == "cs_log_0", "it is good for some minutes more"
    signed_in(age_s=901)
    with pytest.raises(Unreachable):
        access_token(gateway.url)
    assert store.get(gateway.url)
    del gateway.answers["/auth/token"]
    assert access_token(gateway.url) == "cs_log_1"


@pytest.mark.parametrize(
    "changed",
    [
        {"access_token": None},
        {"access_token": "two words"},
        {"refresh_token": None},
        {"refresh_token": ""},
        {"token_type": "DPoP"},
        {"token_type": None},
        {"expires_in": "900"},
        {"expires_in": -1},
        {"expires_in": True},
    ],
)
def test_an_answer_that_is_none_is_not_kept(
    gateway: Standin, store: LoginStore, signed_in: KeepLogin, changed: dict[str, object]
) -> None:
    from countersign_client.errors import Refused

    login = signed_in(age_s=901)
    right = gateway.tokens
    gateway.answers["/auth/token"] = lambda _: (200, {**right()[1], **changed})
    with pytest.raises(Refused, match="no tokens that can be used"):
        access_token(gateway.url)
    assert store.get(gateway.url) == login


def test_signing_out_ends_it_at_the_gateway_too(gateway: Standin, store: LoginStore, signed_in: KeepLogin) -> None:
    signed_in()
    assert logout(gateway.url)
    assert gateway.forms("/auth/revoke") == [{"token": "cs_ref_0", "client_id": "countersign-cli"}]
    assert store.all() == {}
    assert not logout(gateway.url)


def test_signing_out_of_a_gateway_that_is_away_says_so(
    gateway: Standin, store: LoginStore, signed_in: KeepLogin
) -> None:
    signed_in()
    gateway.answers["/auth/revoke"] = lambda _: (503, {})
    with pytest.raises(Unreachable, match="forgotten here, but it holds at the gateway"):
        logout(gateway.url)
    assert store.all() == {}


def test_no_proxy_hears_what_is_said_to_this_machine(
    gateway: Standin, elsewhere: Standin, signed_in: KeepLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", elsewhere.url)
    monkeypatch.delenv("no_proxy", raising=False)
    signed_in(age_s=901)
    assert access_token(gateway.url) == "cs_log_1"
    assert not elsewhere.seen


def test_what_netrc_has_for_the_host_is_not_sent(
    gateway: Standin, signed_in: KeepLogin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    signed_in(age_s=901)
    access_token(gateway.url)
    (seen,) = gateway.seen
    assert "Authorization" not in seen.headers


def test_a_refresh_token_goes_nowhere_after_a_redirect(
    gateway: Standin, elsewhere: Standin, signed_in: KeepLogin
) -> None:
    from countersign_client.errors import Refused

    signed_in(age_s=901)
    gateway.redirects["/auth/token"] = f"{elsewhere.url}/auth/token"
    with pytest.raises(Refused, match="sends callers elsewhere"):
        access_token(gateway.url)
    assert not elsewhere.seen


def test_no_error_shows_a_token(gateway: Standin, signed_in: KeepLogin) -> None:
    import traceback

    signed_in(age_s=901)
    gateway.answers["/auth/token"] = lambda _: (400, {"error": "invalid_request", "error_description": "\x1b[2Jno"})
    with pytest.raises(Exception, match="no") as refused:
        access_token(gateway.url)
    told = "".join(traceback.format_exception(refused.value))
    assert "cs_ref_0" not in told
    assert "\x1b" not in told
