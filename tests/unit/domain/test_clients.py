"""Clients of ours: how they are registered, where they are answered, and PKCE."""

from __future__ import annotations

import pytest

from app.domain.clients import (
    COMMAND_LINE,
    check_challenge,
    clients_from_documents,
    fits_challenge,
    origin_of_redirect,
    redirect_with,
)
from app.domain.discovery import Discovery, GrantType
from app.domain.errors import InvalidConfiguration, OAuthRefused
from app.domain.identity import Scope

GOOD: dict[str, object] = {
    "clientId": "dashboard",
    "title": "Dashboard",
    "redirectUris": ["https://dashboard.example/signed-in", "http://localhost:3000/signed-in"],
    "origins": ["https://dashboard.example", "http://localhost:3000"],
    "scopes": ["promote", "approve"],
}


def test_a_client_is_as_it_was_registered() -> None:
    clients = clients_from_documents([GOOD])
    client = clients.get("dashboard")
    assert client.scopes == {Scope.PROMOTE, Scope.APPROVE}
    assert client.may_redirect_to("https://dashboard.example/signed-in")
    assert not client.may_redirect_to("https://dashboard.example/signed-in/")
    assert not client.may_redirect_to("http://127.0.0.1:1234/callback")
    assert clients.origins == {"https://dashboard.example", "http://localhost:3000"}
    assert clients.title_of("dashboard") == "Dashboard"
    assert clients.title_of("gone") == "gone"


def test_the_command_line_is_always_there() -> None:
    for documents in (None, [], [GOOD]):
        assert clients_from_documents(documents).get("countersign-cli") is COMMAND_LINE
    assert COMMAND_LINE.scopes == set(Scope)
    assert COMMAND_LINE.may_redirect_to("http://[::1]:65535/callback")
    assert not COMMAND_LINE.may_redirect_to("http://[::1]:65536/callback")


@pytest.mark.parametrize("client_id", [None, "", "nobody", "Dashboard"])
def test_nobody_else_is_a_client(client_id: str | None) -> None:
    with pytest.raises(OAuthRefused) as refused:
        clients_from_documents([GOOD]).get(client_id)
    assert refused.value.error == "invalid_client"


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"clientId": "countersign-cli"}, "clientId"),
        ({"clientId": "with space"}, "clientId"),
        ({"clientId": None}, "clientId"),
        ({"title": " "}, "title"),
        ({"title": "a\u202eb"}, "title"),
        ({"redirectUris": []}, "redirectUris"),
        ({"redirectUris": "https://dashboard.example/"}, "redirectUris"),
        ({"redirectUris": ["http://dashboard.example/signed-in"]}, "redirectUris"),
        ({"redirectUris": ["https://dashboard.example/*"]}, "redirectUris"),
        ({"redirectUris": ["https://dashboard.example/#here"]}, "redirectUris"),
        ({"redirectUris": ["https://dashboard.example/#"]}, "redirectUris"),
        ({"redirectUris": ["https://dashboard.example"]}, "redirectUris"),
        ({"redirectUris": ["https://a@dashboard.example/"]}, "redirectUris"),
        ({"redirectUris": ["https://dashboard.example:x/"]}, "redirectUris"),
        ({"redirectUris": ["javascript:alert(1)"]}, "redirectUris"),
        ({"redirectUris": ["com.example:/back"]}, "redirectUris"),
        ({"origins": ["*"]}, "origins"),
        ({"origins": ["null"]}, "origins"),
        ({"origins": ["https://dashboard.example/"]}, "origins"),
        ({"origins": ["https://Dashboard.example"]}, "origins"),
        ({"origins": ["https://dashboard.example:443"]}, "origins"),
        ({"origins": ["http://dashboard.example"]}, "origins"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["admin"]}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"secret": "x"}, "secret"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_client_is_named(changed: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidConfiguration, match=rf"clients\[1\]\.{named}"):
        clients_from_documents([GOOD | changed])


@pytest.mark.parametrize(
    "documents", [{}, "dashboard", ["dashboard"], [GOOD, GOOD]], ids=["map", "text", "texts", "twice"]
)
def test_the_list_of_clients_is_a_list_of_different_clients(documents: object) -> None:
    with pytest.raises(InvalidConfiguration, match="clients"):
        clients_from_documents(documents)


def test_a_client_asks_for_what_it_may_have() -> None:
    client = clients_from_documents([GOOD]).get("dashboard")
    assert client.allowed({Scope.PROMOTE, Scope.ADMIN, Scope.TRACK}) == {Scope.PROMOTE}
    with pytest.raises(OAuthRefused):
        client.allowed({Scope.ADMIN, Scope.TRACK})


def test_pkce_is_as_its_specification_shows_it() -> None:
    """RFC 7636 appendix B."""
    challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    assert check_challenge(challenge, "S256") == challenge
    assert fits_challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", challenge)
    for verifier in (None, "", challenge, "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXK", "ü" * 43, "a" * 129):
        assert not fits_challenge(verifier, challenge)
    for wrong, method in ((challenge, "plain"), (challenge, None), (None, "S256"), (challenge + "=", "S256")):
        with pytest.raises(OAuthRefused):
            check_challenge(wrong, method)


def test_the_answer_is_added_to_what_a_redirect_uri_has() -> None:
    answered = redirect_with("https://dashboard.example/in?kept=&a=1", {"code": "x&y", "state": "ü"})
    assert answered == "https://dashboard.example/in?kept=&a=1&code=x%26y&state=%C3%BC"
    assert origin_of_redirect("http://127.0.0.1:8000/callback") == "http://127.0.0.1:8000"


def test_what_is_offered_is_what_is_said() -> None:
    told = Discovery("https://countersign.example", ["https://issuer.example"]).authorization_server()
    assert told["grant_types_supported"] == [grant.value for grant in GrantType]
    assert told["token_endpoint_auth_methods_supported"] == ["none"]
