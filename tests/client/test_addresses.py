"""Which addresses a token may be sent to, and how they are compared."""

from __future__ import annotations

import pytest
from countersign_client.addresses import gateway_address, origin_of
from countersign_client.errors import InvalidAddress


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://gateway.example", "https://gateway.example"),
        ("https://gateway.example/", "https://gateway.example"),
        (" HTTPS://Gateway.Example:443/ ", "https://gateway.example"),
        ("https://gateway.example:8443", "https://gateway.example:8443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080", "http://[::1]:8080"),
        ("http://localhost", "http://localhost"),
    ],
)
def test_an_address_has_one_spelling(text: str, origin: str) -> None:
    assert gateway_address(text) == origin


@pytest.mark.parametrize(
    "text",
    [
        "",
        "gateway.example",
        "http://gateway.example",
        "http://127.0.0.1.nip.io",
        "http://127.0.0.2",
        "ftp://gateway.example",
        "https://",
        "https://gateway.example/mlflow",
        "https://gateway.example?a=b",
        "https://gateway.example#a",
        "https://ada:secret@gateway.example",
        "https://gateway.example:port",
        "https://gatewаy.example",
        "https://gateway.example\\.thief.example",
        "https://gate%77ay.example",
        "https://[::1",
    ],
)
def test_what_is_no_safe_address_of_a_gateway_is_refused(text: str) -> None:
    with pytest.raises(InvalidAddress) as refused:
        gateway_address(text)
    assert "secret" not in str(refused.value)


def test_hosts_that_begin_alike_are_different_origins() -> None:
    addresses = [
        "https://gateway.example.thief.example/",
        "https://gateway.example@thief.example/",
        "https://gateway.example:1/",
    ]
    assert "https://gateway.example" not in [origin_of(address) for address in addresses]
