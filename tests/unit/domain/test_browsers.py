"""What a request with a session must say of where it comes from."""

from __future__ import annotations

import pytest

from app.domain.browsers import check_request_origin, is_navigation, is_our_host, is_script_of_our_page, origin_of
from app.domain.errors import CrossOrigin

HERE = "https://gateway.example"
HOST = {"host": "gateway.example"}
UNSAFE = ["POST", "PUT", "PATCH", "DELETE", "post", "PROPFIND"]


def headers(**values: str | list[str]) -> list[tuple[bytes, bytes]]:
    return [
        (name.replace("_", "-").encode(), value.encode())
        for name, given in (HOST | values).items()
        for value in (given if isinstance(given, list) else [given])
        if value != "-"
    ]


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize(
    "said",
    [
        {"origin": HERE},
        {"origin": f"{HERE}:443"},
        {"origin": HERE, "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"origin": HERE, "host": "GATEWAY.example:443"},
    ],
)
def test_our_own_pages_may_change_things(method: str, said: dict[str, str]) -> None:
    check_request_origin(method, headers(**said), HERE)


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize(
    "said",
    [
        {},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "https://evil.example"},
        {"origin": "http://gateway.example"},
        {"origin": "https://gateway.example:8443"},
        {"origin": "https://gateway.example.evil.example"},
        {"origin": "https://evil.gateway.example"},
        {"origin": "https://user@gateway.example"},
        {"origin": "https://[broken"},
        {"origin": f"{HERE} https://evil.example"},
        {"origin": HERE, "sec_fetch_site": "cross-site"},
        {"origin": HERE, "sec_fetch_site": "same-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "anything"},
        {"origin": "null", "sec_fetch_site": "same-origin"},
        {"origin": "https://evil.example", "sec_fetch_site": "same-origin"},
        {"origin": [HERE, "https://evil.example"]},
        {"sec_fetch_site": ["same-origin", "cross-site"]},
        {"origin": HERE, "host": ["gateway.example", "evil.example"]},
    ],
)
def test_pages_of_others_may_not(method: str, said: dict[str, str]) -> None:
    with pytest.raises(CrossOrigin):
        check_request_origin(method, headers(**said), HERE)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("said", [{}, {"sec_fetch_site": "cross-site"}, {"origin": "https://evil.example"}])
def test_links_from_anywhere_may_be_followed(method: str, said: dict[str, str]) -> None:
    check_request_origin(method, headers(**said), HERE)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "host", ["evil.example", "gateway.example.evil.example", "127.0.0.1", "gateway.example:8443", "-", ""]
)
def test_a_session_is_good_at_one_host_alone(method: str, host: str) -> None:
    """DNS rebinding: a name of somebody else that leads to us."""
    with pytest.raises(CrossOrigin, match="another host"):
        check_request_origin(method, headers(host=host, origin=HERE), HERE)


def test_ports_that_go_without_saying_are_said_or_not() -> None:
    assert is_our_host(b"127.0.0.1:8080", "http://127.0.0.1:8080")
    assert is_our_host(b"[::1]:8080", "http://[::1]:8080")
    assert is_our_host(b"gateway.example:80", "http://gateway.example")
    assert not is_our_host(b"gateway.example:443", "http://gateway.example")
    assert not is_our_host(None, HERE)
    assert origin_of("null") is None


@pytest.mark.parametrize(
    ("said", "is_one"),
    [
        ({"sec-fetch-mode": "navigate", "accept": "*/*"}, True),
        ({"sec-fetch-mode": "cors", "accept": "text/html"}, False),
        ({"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}, True),
        ({"accept": "application/json"}, False),
        ({"accept": "*/*"}, False),
        ({}, False),
    ],
)
def test_people_wait_for_pages_and_programs_for_data(said: dict[str, str], is_one: bool) -> None:
    assert is_navigation([(name.encode(), value.encode()) for name, value in said.items()]) is is_one


@pytest.mark.parametrize(
    ("said", "is_script"),
    [
        ({"sec_fetch_dest": "script", "sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_dest": "script", "sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_dest": "script", "sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_dest": "empty", "sec_fetch_site": "same-origin"}, False),
        ({"sec_fetch_site": "same-origin"}, False),
        ({}, False),
    ],
)
def test_a_script_that_a_page_of_ours_loads_is_told_from_all_else(said: dict[str, str], *, is_script: bool) -> None:
    assert is_script_of_our_page(headers(**said)) is is_script
