"""What docs/guides/webhooks.md shows receivers does verify what is sent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from standardwebhooks import WebhookVerificationError

from app.adapters.webhook_signatures import signatures

GUIDE = (Path(__file__).parents[2] / "docs/guides/webhooks.md").read_text()
BLOCKS = re.findall(r"```(?:python|bash)\n(.*?)```", GUIDE, re.DOTALL)
WITH_HMAC, WITH_ED25519 = (block for block in BLOCKS if "def event_of" in block)
[BY_HAND] = (block for block in BLOCKS if "openssl dgst" in block)
BODY = '{"name":"Grüße"}'
HMAC, OTHER = (f"whsec_{b64encode(each * 32).decode()}" for each in (b"h", b"o"))
ED25519, PUBLIC = (
    "whsk_" + b64encode(b"e" * 32).decode(),
    "whpk_" + b64encode(Ed25519PrivateKey.from_private_bytes(b"e" * 32).public_key().public_bytes_raw()).decode(),
)


def signed(*secrets: str, ago_s: int = 0) -> dict[str, str]:
    at = int(time.time()) - ago_s
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(at),
        "webhook-signature": signatures(secrets, "msg_1", at, BODY),
    }


@pytest.mark.parametrize(("source", "key", "own"), [(WITH_HMAC, HMAC, HMAC), (WITH_ED25519, PUBLIC, ED25519)])
def test_the_functions_of_the_guide_take_what_is_signed_and_nothing_else(source: str, key: str, own: str) -> None:
    shown: dict[str, Callable[[str, dict[str, str], bytes], object]] = {}
    exec(source, shown)
    event_of = shown["event_of"]
    assert event_of(key, signed(own), BODY.encode()) == json.loads(BODY)
    assert event_of(key, signed(OTHER, own), BODY.encode()) == json.loads(BODY)
    for headers, body in (
        (signed(OTHER), BODY.encode()),
        (signed(own, ago_s=400), BODY.encode()),
        (signed(own), BODY.encode() + b" "),
        (signed(own) | {"webhook-id": "msg_2"}, BODY.encode()),
    ):
        with pytest.raises((ValueError, WebhookVerificationError)):
            event_of(key, headers, body)


def test_the_commands_of_the_guide_print_and_verify_the_signatures(tmp_path: Path) -> None:
    headers = signed(ED25519)
    (tmp_path / "body.json").write_text(BODY)
    environment = {
        "PATH": os.environ["PATH"],
        "ID": headers["webhook-id"],
        "AT": headers["webhook-timestamp"],
        "SIGNATURE": headers["webhook-signature"].partition(",")[2],
        "SECRET": HMAC,
        "PUBLIC": PUBLIC,
    }
    done = subprocess.run(
        ["bash", "-euc", BY_HAND], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = signatures((HMAC,), "msg_1", int(headers["webhook-timestamp"]), BODY)
    assert done.stdout.splitlines()[0] == expected.removeprefix("v1,")
    assert "Signature Verified Successfully" in done.stdout
