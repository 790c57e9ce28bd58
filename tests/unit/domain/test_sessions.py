"""How long sessions last, which cookie carries them, and where a person may be sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.errors import NotAuthenticated
from app.domain.sessions import (
    BELIEVED_FOR,
    Lifetimes,
    Session,
    cookies_of,
    has_form_of_secret,
    one_cookie,
    safe_return,
)

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = Lifetimes(idle=timedelta(hours=8), absolute=timedelta(hours=24))


def session(*, last_seen: timedelta = timedelta(), ends: timedelta = timedelta(hours=24)) -> Session:
    return Session("ses_1", "p", "P", "one", NOW, NOW, NOW - last_seen, NOW + ends, "192.0.2.1", "")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/auth/account",
        "/auth/device?user_code=ABCD-EFGH",
        "/#/experiments/1/runs",
        "/control/docs",
        "/a?b=//evil.example",
        "/%2f%2fevil.example",
        "/a/../b",
        "/auth/sign-ins",
        "/?next=https://evil.example",
    ],
)
def test_a_path_of_ours_is_returned_to(path: str) -> None:
    assert safe_return(path) == path


OPEN_REDIRECTS = [
    None,
    "",
    "evil.example",
    "https://evil.example",
    "http:evil.example",
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/a\\..\\evil",
    "/\t/evil.example",
    "/\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    "/ /evil.example",
    "javascript:alert(1)",
    "data:text/html,x",
    "/\x00",
    "/\x7f",
    "/ä",
    "/\u2028/evil.example",
    "/" + "a" * 2048,
    "/auth/sign-in",
    "/auth/sign-in/one",
    "/auth/callback/one?code=x",
    "/auth/sign-out",
    "/auth/signed-out",
]


@pytest.mark.parametrize("wanted", OPEN_REDIRECTS)
def test_everything_else_leads_home(wanted: str | None) -> None:
    assert safe_return(wanted) == "/"


@given(st.text(max_size=60))
def test_nothing_leads_to_another_host(text: str) -> None:
    returned = safe_return(text)
    assert returned.startswith("/")
    assert not returned.startswith(("//", "/\\"))
    assert returned.isascii()
    assert returned.isprintable()


def test_cookies_are_bound_to_the_host_where_there_is_tls() -> None:
    assert cookies_of("https://gateway.example").session == "__Host-countersign-session"
    assert cookies_of("https://gateway.example").is_secure
    assert cookies_of("http://127.0.0.1:8080").session == "countersign-session"
    assert not cookies_of("http://127.0.0.1:8080").is_secure


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ([], None),
        (["a=1; b=2"], None),
        (["s=1"], "1"),
        (["a=1; s=2; b=3"], "2"),
        (["a=1", "s=2"], "2"),
        (["s="], ""),
        (["S=1"], None),
        (["xs=1; s =2"], "2"),
    ],
)
def test_a_cookie_is_found_by_its_exact_name(lines: list[str], value: str | None) -> None:
    assert one_cookie([(b"cookie", line.encode()) for line in lines], "s") == value


@pytest.mark.parametrize("lines", [["s=1; s=2"], ["s=1", "s=1"], ["s=1; a=b; s="]])
def test_two_cookies_of_one_name_are_refused(lines: list[str]) -> None:
    with pytest.raises(NotAuthenticated, match="Two session cookies"):
        one_cookie([(b"Cookie", line.encode()) for line in lines], "s")


def test_only_what_we_could_have_made_is_looked_up() -> None:
    assert has_form_of_secret("A" * 43)
    assert not any(has_form_of_secret(text) for text in (None, "", "A" * 42, "A" * 44, "A" * 42 + "=", "ä" * 43))


def test_a_session_is_believed_for_moments_and_never_beyond_its_end() -> None:
    assert DAY.believed_until(session(), NOW) == NOW + BELIEVED_FOR
    assert DAY.believed_until(session(ends=timedelta(seconds=5)), NOW) == NOW + timedelta(seconds=5)
    nearly_idle = session(last_seen=timedelta(hours=8) - timedelta(seconds=2))
    assert DAY.believed_until(nearly_idle, NOW) == NOW + timedelta(seconds=2)


def test_a_short_idle_time_is_measured_more_often() -> None:
    short = Lifetimes(idle=timedelta(minutes=1), absolute=timedelta(hours=1))
    assert short.touch_after == timedelta(seconds=6)
    assert short.believed_until(session(), NOW) == NOW + timedelta(seconds=6)
    assert DAY.touch_after == timedelta(minutes=1)
