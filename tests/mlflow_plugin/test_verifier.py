"""What MLflow's side takes for the gateway's word: what the gateway signed, lately, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from countersign_mlflow.assertions import LEEWAY_S, REMEMBERED, NotAsserted, Verifier
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from tests.mlflow_plugin.conftest import SECRET

NOW = 1_772_366_400
HEADER = {"alg": "HS256", "typ": "countersign-assertion+jwt"}
CLAIMS = {"iss": "countersign", "aud": "mlflow", "sub": "anonymous", "iat": NOW, "exp": NOW + 60}


def sign(changed: Mapping[str, Any] | None = None, header: Mapping[str, Any] = HEADER, secret: str = SECRET) -> str:
    claims = {name: value for name, value in {**CLAIMS, **(changed or {})}.items() if value is not None}
    return jwt.encode(dict(header), claims, OctKey.import_key(secret), [header["alg"]], default_type=None)


def by_hand(header: Mapping[str, Any], claims: Mapping[str, Any], key: bytes | None) -> str:
    """A token as a library would refuse to make it."""
    signed = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, claims)
    )
    signature = hmac.new(key, signed.encode(), hashlib.sha256).digest() if key else b""
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def verifier_at(seconds: float = 0) -> Verifier:
    return Verifier(SECRET, lambda: NOW + seconds)


def test_the_gateways_word_is_taken() -> None:
    assert verifier_at().verify(sign()).subject == "anonymous"
    assert verifier_at().verify(by_hand(HEADER, CLAIMS, SECRET.encode())).subject == "anonymous"


PUBLIC_KEY = RSAKey.generate_key(2048).as_pem(private=False)
REFUSED: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no token": lambda: "x",
    "dots": lambda: "..",
    "another secret": lambda: sign(secret="another secret that is also long enough"),
    "no algorithm": lambda: by_hand(HEADER | {"alg": "none"}, CLAIMS, None),
    "no algorithm, in capitals": lambda: by_hand(HEADER | {"alg": "None"}, CLAIMS, None),
    "no signature": lambda: sign().rpartition(".")[0] + ".",
    "another algorithm of the same key": lambda: sign(header=HEADER | {"alg": "HS512"}),
    "a public key as the secret": lambda: by_hand(HEADER | {"alg": "RS256"}, CLAIMS, PUBLIC_KEY),
    "our secret under another algorithm's name": lambda: by_hand(HEADER | {"alg": "RS256"}, CLAIMS, SECRET.encode()),
    "a key of its own": lambda: by_hand(
        HEADER | {"jwk": {"kty": "oct", "k": "YWFhYWFhYWFhYWFhYWFhYQ"}}, CLAIMS, b"aaaaaaaaaaaaaaaa"
    ),
    "an extension it must understand": lambda: by_hand(HEADER | {"crit": ["exp"]}, CLAIMS, SECRET.encode()),
    "another type": lambda: sign(header=HEADER | {"typ": "JWT"}),
    "no type": lambda: sign(header={"alg": "HS256"}),
    "another issuer": lambda: sign({"iss": "somebody"}),
    "another audience": lambda: sign({"aud": "gateway"}),
    "expired": lambda: sign({"iat": NOW - 300, "exp": NOW - LEEWAY_S}),
    "of the future": lambda: sign({"iat": NOW + LEEWAY_S + 1, "exp": NOW + 120}),
    "for ever, in words": lambda: sign({"exp": "never"}),
    "no expiry": lambda: sign({"exp": None}),
    "no time": lambda: sign({"iat": None}),
    "no issuer": lambda: sign({"iss": None}),
    "no audience": lambda: sign({"aud": None}),
    "nobody": lambda: sign({"sub": None}),
    "a subject that is no text": lambda: sign({"sub": 1}),
    "a request that is text": lambda: sign({"request": "any"}),
    "a request with too little": lambda: sign({"request": {"method": "POST"}}),
    "a request with too much": lambda: sign(
        {"request": {"method": "P", "path": "/", "message": "M", "digest": "d", "but": "not"}}
    ),
    "claims that are a list": lambda: by_hand(HEADER, [1], SECRET.encode()),  # type: ignore[arg-type]
    "a header that is a list": lambda: by_hand([1], CLAIMS, SECRET.encode()),  # type: ignore[arg-type]
    "a surrogate": lambda: "\ud800",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_anything_else_is_refused_and_not_quoted(kind: str) -> None:
    token = REFUSED[kind]()
    with pytest.raises(NotAsserted) as refusal:
        verifier_at().verify(token)
    assert SECRET not in str(refusal.value)
    assert not token or token not in str(refusal.value)


@given(st.one_of(st.text(max_size=80), st.lists(st.text("ey.J0_-=", max_size=20), max_size=5).map(".".join)))
def test_noise_is_refused_and_breaks_nothing(noise: str) -> None:
    with pytest.raises(NotAsserted):
        verifier_at().verify(noise)


def test_clocks_may_differ_a_little() -> None:
    assert verifier_at(60 + LEEWAY_S - 1).verify(sign())
    assert verifier_at(-LEEWAY_S).verify(sign())


def test_what_was_verified_once_expires_all_the_same() -> None:
    clock = [NOW]
    verifier = Verifier(SECRET, lambda: clock[0])
    token = sign()
    known = verifier.verify(token)
    assert verifier.verify(token) is known
    clock[0] = NOW + 60 + LEEWAY_S
    for _ in range(2):
        with pytest.raises(NotAsserted, match="expired"):
            verifier.verify(token)


def test_only_what_was_verified_is_remembered_and_not_without_end() -> None:
    verifier = verifier_at()
    with pytest.raises(NotAsserted):
        verifier.verify("x")
    assert verifier._known == {}
    for number in range(REMEMBERED + 5):
        verifier.verify(sign({"sub": str(number)}))
    assert len(verifier._known) == 5


def started(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The import by which `mlflow server` begins."""
    command = [sys.executable, "-c", "import countersign_mlflow.app"]
    return subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "set it to the secret that the gateway has"),
        ({"COUNTERSIGN_ASSERTION_SECRET": ""}, "set it to the secret that the gateway has"),
        ({"COUNTERSIGN_ASSERTION_SECRET": "short-secret"}, "expected at least 32 bytes"),
        ({"COUNTERSIGN_ASSERTION_SECRET_FILE": "/not/there"}, "/not/there cannot be read"),
        ({"COUNTERSIGN_ASSERTION_SECRET": SECRET, "COUNTERSIGN_ASSERTION_SECRET_FILE": "/x"}, "set one, not both"),
    ],
)
def test_a_server_without_a_good_secret_does_not_start(environment: dict[str, str], expected: str) -> None:
    done = started(environment)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert expected in line
    assert "short-secret" not in line
    assert SECRET not in line


def test_the_secret_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    assert started({"COUNTERSIGN_ASSERTION_SECRET_FILE": str(tmp_path / "secret")}).returncode == 0
