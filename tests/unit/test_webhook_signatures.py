"""Signatures of Standard Webhooks: those of its specification, those of a rotation, and what is refused."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import Webhook

from app.adapters.webhook_signatures import MOST_SIGNATURES, TOLERANCE_S, StandardWebhooks, signatures

ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}'
# The vectors of the specification's libraries; the first ed25519 one is in the specification itself.
VECTORS = [
    ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    (
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
    ),
    (
        "whsk_VEVTVFNJR05JTkdLRVlET05PVFVTRVRISVNGT1JBTlk=",
        "v1a,tQ9V2XOqn7jL/DQenEFpqIugdBVtiMmER5mhSkXBNwM0mkATuDe6KYYUuxqtaiHeYGb7KaaBRdM5WqyeFiL8Ag==",
    ),
]
HMAC = "whsec_" + b64encode(b"h" * 32).decode()
OTHER_HMAC = "whsec_" + b64encode(b"o" * 32).decode()
SEED = b"e" * 32
ED25519 = "whsk_" + b64encode(SEED).decode()
PUBLIC = "whpk_" + b64encode(Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()).decode()

verify = StandardWebhooks().verify


def signed(*secrets: str, body: str = BODY, at: int | None = None) -> dict[str, str]:
    at = int(time.time()) if at is None else at
    return {
        "webhook-id": ID,
        "webhook-timestamp": str(at),
        "webhook-signature": signatures(secrets, ID, at, body),
    }


@pytest.mark.parametrize(("secret", "signature"), VECTORS)
def test_signatures_are_those_of_the_specification(secret: str, signature: str) -> None:
    assert signatures((secret,), ID, AT, BODY) == signature


def test_during_a_rotation_a_message_is_signed_with_both_secrets_the_newest_first() -> None:
    each = [secret for secret, _ in VECTORS[:2]]
    assert signatures(tuple(each), ID, AT, BODY) == " ".join(signature for _, signature in VECTORS[:2])
    headers = signed(HMAC, ED25519, OTHER_HMAC)
    for secret in (HMAC, OTHER_HMAC):
        Webhook(secret).verify(BODY, headers, json_parse=False)
    for secret in (HMAC, OTHER_HMAC, ED25519, PUBLIC):
        assert verify(secret, headers, BODY.encode())


def test_bodies_beyond_ascii_are_signed_as_they_are_sent() -> None:
    body = '{"name":"Grüße 模型"}'
    assert verify(HMAC, signed(HMAC, body=body), body.encode())
    assert verify(PUBLIC, signed(ED25519, body=body), body.encode())


def test_a_secret_without_a_prefix_signs_as_it_did_before() -> None:
    bare = b64encode(b"from before").decode()
    Webhook(bare).verify(BODY, signed(bare), json_parse=False)
    assert verify(bare, signed(bare), BODY.encode())


@pytest.mark.parametrize("secrets", [(), (PUBLIC,), (HMAC, "whsec_c2hvcnQ="), ("not base64!",)])
def test_what_cannot_sign_is_refused_and_not_shown(secrets: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        signatures(secrets, ID, AT, BODY)
    assert not any(secret in str(refused.value) for secret in secrets)


@pytest.mark.parametrize("secret", [HMAC, ED25519])
@pytest.mark.parametrize(
    "change",
    [
        lambda headers: headers | {"webhook-id": "msg_other"},
        lambda headers: headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)},
        lambda headers: headers | {"webhook-timestamp": "nan"},
        lambda headers: headers | {"webhook-timestamp": "1e9"},
        lambda headers: headers | {"webhook-timestamp": ""},
        lambda headers: headers | {"webhook-signature": ""},
        lambda headers: headers | {"webhook-signature": "v1, v1a,"},
        lambda headers: headers | {"webhook-signature": headers["webhook-signature"].partition(",")[2]},
        lambda headers: headers | {"webhook-signature": "v2," + headers["webhook-signature"].partition(",")[2]},
        lambda headers: headers | {"webhook-signature": signatures((OTHER_HMAC,), ID, AT, BODY)},
        lambda headers: headers | {"webhook-signature": "v1,%%% v1a,%%%"},
        lambda headers: {name: value for name, value in headers.items() if name != "webhook-id"},
        lambda headers: {},
    ],
)
def test_what_was_not_signed_so_does_not_verify(
    secret: str, change: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    headers = signed(secret)
    assert verify(secret, headers, BODY.encode())
    assert not verify(secret, change(headers), BODY.encode())
    assert not verify(secret, headers, BODY.encode() + b" ")
    assert not verify(secret, headers, b"\xff")


@pytest.mark.parametrize("secret", [HMAC, ED25519])
@pytest.mark.parametrize("away", [-TOLERANCE_S - 10, TOLERANCE_S + 10])
def test_what_was_signed_long_ago_or_later_does_not_verify(secret: str, away: int) -> None:
    assert not verify(secret, signed(secret, at=int(time.time()) + away), BODY.encode())


def test_an_unreadable_signature_hides_no_good_one() -> None:
    for secret in (HMAC, ED25519):
        headers = signed(secret)
        headers["webhook-signature"] = "v1 nonsense v1a,=== " + headers["webhook-signature"]
        assert verify(secret, headers, BODY.encode())


def test_of_very_many_signatures_only_the_first_are_looked_at() -> None:
    headers = signed(ED25519)
    false = "v1a," + b64encode(b"\0" * 64).decode()
    headers["webhook-signature"] = " ".join([false] * MOST_SIGNATURES + [headers["webhook-signature"]])
    assert not verify(PUBLIC, headers, BODY.encode())


def test_a_public_key_does_not_serve_as_a_shared_secret() -> None:
    # Otherwise whoever knows the public key could sign with HMAC.
    shared = "whsec_" + PUBLIC.removeprefix("whpk_")
    assert len(b64decode(PUBLIC.removeprefix("whpk_"))) == 32
    assert not verify(PUBLIC, signed(shared), BODY.encode())


def test_what_is_no_secret_verifies_nothing() -> None:
    for secret in ("", "whsec_", "whpk_", "not base64!"):
        assert not verify(secret, signed(HMAC), BODY.encode())
