"""Providers want a client to show its secret in different ways, and say so only in part."""

from __future__ import annotations

import base64

import pytest

from app.adapters.oidc.client_authentication import BASIC, BASIC_AS_IT_IS, NONE, POST, ClientAuthentication

PLAIN, ODD = "s3cret", "s3c ret/+"
FORM = {"grant_type": "authorization_code"}


@pytest.mark.parametrize(
    ("secret", "supported", "ways"),
    [
        (None, [BASIC, POST], (NONE,)),
        (PLAIN, None, (BASIC, POST)),
        (PLAIN, "client_secret_post", (BASIC, POST)),
        (PLAIN, [], (BASIC, POST)),
        (PLAIN, [POST, BASIC, NONE], (BASIC, POST)),
        (PLAIN, [POST], (POST,)),
        (PLAIN, [NONE], (NONE,)),
        (PLAIN, ["private_key_jwt"], ()),
        (ODD, [BASIC], (BASIC, BASIC_AS_IT_IS)),
        (ODD, None, (BASIC, POST, BASIC_AS_IT_IS)),
    ],
)
def test_what_the_provider_can_is_tried_as_the_standards_prefer_it(
    secret: str | None, supported: object, ways: tuple[str, ...]
) -> None:
    assert tuple(ClientAuthentication("web", secret).ways(supported)) == ways


def test_what_worked_comes_first_and_the_others_stay() -> None:
    client = ClientAuthentication("web", PLAIN)
    client.worked(POST)
    assert tuple(client.ways([BASIC, POST])) == (POST, BASIC)


def test_the_secret_is_where_the_way_wants_it_and_nowhere_else() -> None:
    client = ClientAuthentication("my web", ODD)
    assert client.apply(POST, FORM) == ({**FORM, "client_id": "my web", "client_secret": ODD}, {})
    assert client.apply(NONE, FORM) == ({**FORM, "client_id": "my web"}, {})
    for way, pair in ((BASIC, b"my+web:s3c+ret%2F%2B"), (BASIC_AS_IT_IS, b"my web:s3c ret/+")):
        form, headers = client.apply(way, FORM)
        assert form == FORM
        assert base64.b64decode(headers["Authorization"].removeprefix("Basic ")) == pair
