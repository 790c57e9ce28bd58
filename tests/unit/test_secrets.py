"""Secrets by reference: files, variables, and what is derived from the webhook key."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from app.adapters.secrets import MOST_BYTES, Secrets
from app.adapters.webhook_signatures import StandardWebhooks, signatures
from app.domain.errors import InvalidConfiguration
from app.domain.webhook_keys import KeyKind, parse_key

KEY = "0123456789abcdef0123456789abcdef"


def test_a_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("one\n")
    assert Secrets().read(f"file:{file}") == "one"
    file.write_text("two")
    assert Secrets().read(f"file:{file}") == "two"


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "empty"), (b"\xff\xfe", "UTF-8"), (b"x" * (MOST_BYTES + 1), "more than")]
)
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(InvalidConfiguration, match=says):
        Secrets().read(f"file:{file}")


def test_a_file_that_never_ends_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="more than"):
        Secrets().read("file:/dev/zero")


@pytest.mark.parametrize(
    "reference", ["file:/not/there", "file:/", "file:", "env:NOT_SET_ANYWHERE", "other:x", "", "file:a\0b"]
)
def test_a_secret_that_is_not_there_is_refused_by_its_reference(reference: str) -> None:
    with pytest.raises(InvalidConfiguration, match="The secret"):
        Secrets().read(reference)


def test_derived_keys_are_the_same_wherever_the_webhook_key_is_the_same() -> None:
    assert Secrets(KEY).read("derived:hmac/ep_1/1") == Secrets(KEY).read("derived:hmac/ep_1/1")
    # Pinned: another value would lock every receiver out.
    assert Secrets(KEY).read("derived:hmac/ep_1/1") == "whsec_qoj1mkhbX08rsSvSO6JeCrX6hlssC9uip1lB92Uln50="
    assert Secrets(KEY).public_key("derived:ed25519/ep_1/1") == "whpk_lTCJ4kRGCaPL1qyh57G2IvYNZPlGCMhjBEJMx+3gtQs="


def test_derived_keys_differ_in_kind_id_number_and_webhook_key() -> None:
    references = [
        "derived:hmac/a/1",
        "derived:hmac/a/2",
        "derived:hmac/b/1",
        "derived:hmac/a/11",
        "derived:ed25519/a/1",
    ]
    keys = {parse_key(Secrets(key).read(each)).value for key in (KEY, KEY[::-1]) for each in references}
    assert len(keys) == 2 * len(references)
    assert parse_key(Secrets(KEY).read("derived:hmac/a/1")).kind is KeyKind.HMAC
    assert parse_key(Secrets(KEY).read("derived:ed25519/a/1")).kind is KeyKind.ED25519


def test_without_a_webhook_key_nothing_is_derived_and_the_setting_is_named() -> None:
    for nothing in (None, ""):
        with pytest.raises(InvalidConfiguration, match="COUNTERSIGN_WEBHOOK_KEY"):
            Secrets(nothing).read("derived:hmac/ep_1/1")


def test_a_derived_reference_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="expected derived:"):
        Secrets(KEY).read("derived:hmac/../1")


def test_the_public_key_verifies_what_the_private_one_signed() -> None:
    from time import time

    reference, now = "derived:ed25519/ep_1/1", int(time())
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signatures((Secrets(KEY).read(reference),), "msg_1", now, "{}"),
    }
    public = Secrets(KEY).public_key(reference)
    assert StandardWebhooks().verify(public, headers, b"{}")
    assert not StandardWebhooks().verify(public, headers, b"{ }")


def test_an_hmac_secret_has_no_public_key(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "whsec_" + b64encode(b"x" * 32).decode()
    monkeypatch.setenv("A_SECRET", secret)
    for reference in ("derived:hmac/ep_1/1", "env:A_SECRET"):
        with pytest.raises(InvalidConfiguration, match="expected whsk_") as refused:
            Secrets(KEY).public_key(reference)
        assert secret not in refused.value.message


def test_what_is_no_key_has_no_public_key_and_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "hunter2!")
    with pytest.raises(InvalidConfiguration, match="A_SECRET") as refused:
        Secrets(KEY).public_key("env:A_SECRET")
    assert "hunter2" not in refused.value.message
