"""How keys that sign webhooks, and references to derived ones, are written."""

from __future__ import annotations

from base64 import b64encode

import pytest

from app.domain.webhook_keys import Derived, Key, KeyKind, parse_key


def written(prefix: str, length: int) -> str:
    return prefix + b64encode(bytes(range(length))).decode()


@pytest.mark.parametrize(
    ("prefix", "length", "kind"),
    [
        ("whsec_", 24, KeyKind.HMAC),
        ("whsec_", 64, KeyKind.HMAC),
        ("whsk_", 32, KeyKind.ED25519),
        ("whpk_", 32, KeyKind.ED25519_PUBLIC),
    ],
)
def test_a_key_is_read_and_written_by_its_prefix(prefix: str, length: int, kind: KeyKind) -> None:
    text = written(prefix, length)
    key = parse_key(text)
    assert (key.kind, len(key.value)) == (kind, length)
    assert key.written() == text


def test_of_an_ed25519_key_with_its_public_half_the_private_one_is_read() -> None:
    assert parse_key(written("whsk_", 64)) == Key(KeyKind.ED25519, bytes(range(32)))


def test_padding_may_lack() -> None:
    assert parse_key(written("whsec_", 25).rstrip("=")) == parse_key(written("whsec_", 25))


def test_a_secret_of_before_there_were_prefixes_is_an_hmac_secret_of_any_length() -> None:
    assert parse_key("c2hvcnQ=") == Key(KeyKind.HMAC, b"short")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        written("whsec_", 23),
        written("whsec_", 65),
        "whsec_not base64 not base64 not base64",
        written("whsk_", 31),
        written("whsk_", 33),
        written("whpk_", 64),
        "whsk_é",
        "not base64!",
    ],
)
def test_what_is_no_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="expected wh") as refused:
        parse_key(text)
    assert len(text) < 10 or text not in str(refused.value)


def test_a_key_does_not_show_itself() -> None:
    assert "AAEC" not in repr(parse_key(written("whsec_", 32)))
    assert "\\x01" not in repr(parse_key(written("whsec_", 32)))


@pytest.mark.parametrize("text", ["derived:hmac/ep_1/1", "derived:ed25519/0190a-b.c/12"])
def test_a_reference_to_a_derived_key_is_read_as_it_is_written(text: str) -> None:
    assert str(Derived.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "derived:",
        "derived:hmac/x",
        "derived:rsa/x/1",
        "derived:ed25519-public/x/1",
        "derived:hmac//1",
        "derived:hmac/a/b/1",
        "derived:hmac/../1",
        "derived:hmac/x/0",
        "derived:hmac/x/01",
        "derived:hmac/x/-1",
        "derived:hmac/x/1\n",
        "derived:hmac/é/1",
        "derived:hmac/x/١",
        "file:/x",
        "derived:hmac/" + "x" * 129 + "/1",
    ],
)
def test_a_reference_has_one_way_to_be_written(text: str) -> None:
    with pytest.raises(ValueError, match="expected derived"):
        Derived.parse(text)
