"""Access tokens: what is refused, that keys are rotated, and that nothing of a token is written anywhere."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Callable

import httpx
import pytest

from tests.issuer import Issuer, new_key
from tests.platform import GROUPS, Countersign


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def unsigned(issuer: Issuer, header: dict[str, object], signature: str = "") -> str:
    return f"{encoded(header)}.{encoded(issuer.claims('scientist', groups=['scientists']))}.{signature}"


def signed_with_public_key(issuer: Issuer) -> str:
    """The old confusion: the public key taken for an HMAC secret."""
    secret = issuer.keys[0].as_pem(private=False)
    head = f"{encoded({'alg': 'HS256', 'kid': 'first'})}.{encoded(issuer.claims('scientist', groups=['scientists']))}"
    signature = hmac.digest(secret, head.encode(), "sha256")
    return f"{head}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def with_swapped_payload(issuer: Issuer) -> str:
    head, _, signature = issuer.token("scientist", groups=["scientists"]).split(".")
    return f"{head}.{encoded(issuer.claims('administrator', groups=['administrators']))}.{signature}"


FORGED: dict[str, Callable[[Issuer], str]] = {
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 120),
    "not valid yet": lambda issuer: issuer.token(nbf=int(time.time()) + 600),
    "issued in the future": lambda issuer: issuer.token(iat=int(time.time()) + 600),
    "without an end": lambda issuer: issuer.token(exp=None),
    "for another audience": lambda issuer: issuer.token(aud="another"),
    "for no audience": lambda issuer: issuer.token(aud=None),
    "for a list of other audiences": lambda issuer: issuer.token(aud=["another", "countersign2"]),
    "of another issuer": lambda issuer: issuer.token(iss="https://evil.example"),
    "of no issuer": lambda issuer: issuer.token(iss=None),
    "of nobody": lambda issuer: issuer.token(sub=None),
    "of a blank subject": lambda issuer: issuer.token(sub=""),
    "signed with another key of the same name": lambda issuer: issuer.token(key=new_key("first")),
    "signed with an unknown key": lambda issuer: issuer.token(key=new_key("unknown")),
    "unsigned": lambda issuer: unsigned(issuer, {"alg": "none"}),
    "unsigned, in capitals": lambda issuer: unsigned(issuer, {"alg": "NONE", "kid": "first"}),
    "signed with the public key as a secret": signed_with_public_key,
    "signed with an algorithm that is not pinned": lambda issuer: issuer.token(header={"alg": "RS512"}),
    "a logout token": lambda issuer: issuer.token(header={"typ": "logout+jwt"}),
    "with another payload": with_swapped_payload,
    "with a signature cut off": lambda issuer: issuer.token().rpartition(".")[0] + ".",
    "with a key of its own inside": lambda issuer: issuer.token(
        key=(key := new_key("own")), header={"kid": "first", "jwk": key.as_dict(private=False)}
    ),
    "not a token": lambda _issuer: "not-a-token",
    "an opaque token": lambda _issuer: "a" * 48,
    "too long": lambda issuer: issuer.token(padding="x" * 20_000),
    "with a header that is no object": lambda _issuer: f"{encoded([])}.{encoded({})}.AAAA",
    "with a header that is no JSON": lambda _issuer: "AAAA.AAAA.AAAA",
}


@pytest.mark.parametrize("kind", FORGED)
@pytest.mark.parametrize("path", ["/control/v1/me", "/api/2.0/mlflow/experiments/search?max_results=1"])
def test_a_bad_token_is_refused_and_never_written_down(
    service: Countersign, issuer: Issuer, kind: str, path: str
) -> None:
    token = FORGED[kind](issuer)
    answer = httpx.get(service.url + path, headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False)
    assert answer.status_code == 401, kind
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith("Bearer ")
    assert 'error="invalid_token"' in challenge
    for part in [token, *token.split(".")]:
        if len(part) > 12:
            assert part not in answer.text
            assert part not in challenge
            assert part not in service.log("gateway")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Authorization", "Basic c2NpZW50aXN0OnBhc3N3b3Jk")],
        [("Authorization", "Bearer")],
        [("Authorization", "Token abc")],
        [("Authorization", "Bearer abc"), ("Authorization", "Bearer abc")],
        [("Cookie", "session=abc")],
        [("X-Remote-User", "administrator")],
        [("X-Forwarded-User", "administrator"), ("X-Forwarded-Access-Token", "abc")],
    ],
)
@pytest.mark.parametrize("path", ["/control/v1/me", "/api/2.0/mlflow/experiments/search?max_results=1"])
def test_nothing_but_one_bearer_token_says_who_is_calling(
    service: Countersign, headers: list[tuple[str, str]], path: str
) -> None:
    answer = httpx.get(service.url + path, headers=headers, timeout=30, trust_env=False)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer ")


def test_mlflow_paths_answer_in_mlflows_shape(service: Countersign) -> None:
    answer = httpx.get(f"{service.url}/api/2.0/mlflow/experiments/search?max_results=1", timeout=30, trust_env=False)
    assert answer.json()["error_code"] == "UNAUTHENTICATED"


def test_a_good_token_says_who_and_what(service: Countersign) -> None:
    me = service.call("approver", "GET", "/me").json()
    assert (me["name"], me["kind"], me["roles"]) == ("approver", "person", ["approver"])
    assert "promotions:decide" in me["permissions"]
    assert service.call("serving", "GET", "/me").json()["kind"] == "service"


def test_an_audience_among_several_is_enough(service: Countersign, issuer: Issuer) -> None:
    token = issuer.token("viewer", groups=["viewers"], aud=["other", "countersign"])
    assert service.call(None, "GET", "/me", headers={"Authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.parametrize("groups", [{"scientists": True}, [["scientists"]], None, [1]])
def test_groups_of_another_shape_give_no_role(service: Countersign, issuer: Issuer, groups: object) -> None:
    token = issuer.token("somebody", groups=groups)  # type: ignore[arg-type]
    answer = service.call(None, "GET", "/promotions", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403


def test_identity_is_the_subject_and_not_the_name(service: Countersign, issuer: Issuer) -> None:
    """Two people with one name: the second cannot approve as if it were the first, nor be taken for it."""
    token = issuer.token("another-subject", groups=GROUPS["approver"], preferred_username="approver")
    other = service.call(None, "GET", "/me", headers={"Authorization": f"Bearer {token}"}).json()
    assert other["name"] == "approver"
    assert other["id"] != service.call("approver", "GET", "/me").json()["id"]


def test_a_rotated_key_is_picked_up_without_a_restart(countersign: Countersign) -> None:
    from tests.issuer import running_issuer
    from tests.platform import until

    with running_issuer() as issuer:
        countersign.start("gateway", COUNTERSIGN_OIDC_ISSUER=issuer.url)

        def status(token: str) -> int:
            return countersign.call(None, "GET", "/me", headers={"Authorization": f"Bearer {token}"}).status_code

        assert status(issuer.token("viewer", groups=["viewers"])) == 200
        issuer.keys = [new_key("second")]
        rotated = issuer.token("viewer", groups=["viewers"], key=issuer.keys[0])
        until(lambda: status(rotated) == 200, "the new key being accepted")
        issuer.fails = True
        again = issuer.token("viewer", groups=["viewers"], key=issuer.keys[0], jti="another")
        assert status(again) == 200


def test_made_up_key_names_do_not_make_us_hammer_the_issuer(countersign: Countersign) -> None:
    from tests.issuer import running_issuer

    with running_issuer() as issuer:
        countersign.start("gateway", COUNTERSIGN_OIDC_ISSUER=issuer.url)
        for number in range(40):
            token = (
                issuer.token(key=new_key(f"k{number}")) if number < 3 else issuer.token(header={"kid": f"x{number}"})
            )
            answer = countersign.call(None, "GET", "/me", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 401
        assert issuer.asked <= 8


def test_an_issuer_that_is_away_at_the_start_is_said_to_be_away(countersign: Countersign) -> None:
    from tests.issuer import running_issuer

    with running_issuer() as issuer:
        issuer.fails = True
        countersign.start("gateway", COUNTERSIGN_OIDC_ISSUER=issuer.url)
        token = issuer.token("viewer", groups=["viewers"])
        answer = countersign.call(None, "GET", "/me", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        ready = httpx.get(f"{countersign.url}/readyz", timeout=30, trust_env=False)
        assert ready.status_code == 503
        assert "identity provider" in ready.json()["parts"]["identity_provider"]
        assert ready.json()["parts"]["mlflow"] == "ok"


def test_metadata_of_another_issuer_is_not_believed(countersign: Countersign) -> None:
    from tests.issuer import running_issuer

    with running_issuer() as issuer:
        issuer.metadata_issuer = "https://evil.example"
        countersign.start("gateway", COUNTERSIGN_OIDC_ISSUER=issuer.url)
        token = issuer.token("viewer", groups=["viewers"])
        answer = countersign.call(None, "GET", "/me", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 503
