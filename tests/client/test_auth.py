"""The token goes to its own gateway and to nobody else; one that was not taken is renewed in the middle of the run."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
import requests
from countersign_client.auth import GatewayAuth
from countersign_client.errors import NotSignedIn
from countersign_client.store import Login, LoginStore

from tests.client.standin import Standin

KeepLogin = Callable[..., Login]


def get(url: str, **options: object) -> requests.Response:
    return requests.get(url, auth=GatewayAuth(), timeout=10, **options)  # type: ignore[arg-type]


def test_the_token_is_sent_to_the_gateway(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in()
    assert get(f"{gateway.url}/api/2.0/mlflow/runs/get").status_code == 200


def test_no_token_is_sent_to_anybody_else(gateway: Standin, elsewhere: Standin, signed_in: KeepLogin) -> None:
    signed_in()
    elsewhere.answers["/api"] = lambda _: (200, {})
    assert get(f"{elsewhere.url}/api").status_code == 200
    assert get(f"{elsewhere.url.replace('127.0.0.1', 'localhost')}/api").status_code == 200
    assert not [seen for seen in elsewhere.seen if "Authorization" in seen.headers]


def test_no_token_is_sent_on_after_a_redirect(gateway: Standin, elsewhere: Standin, signed_in: KeepLogin) -> None:
    signed_in()
    gateway.redirects["/away"] = f"{elsewhere.url}/api"
    assert get(f"{gateway.url}/away").status_code == 401
    (arrived,) = elsewhere.seen
    assert "Authorization" not in arrived.headers
    assert not gateway.forms("/auth/token"), "another's 401 says nothing of our token"


def test_where_a_redirect_leads_to_another_server_its_401_is_its_own(
    gateway: Standin, elsewhere: Standin, store: LoginStore
) -> None:
    gateway.redirects["/away"] = f"{elsewhere.url}/api"
    assert get(f"{gateway.url}/away").status_code == 401


def test_a_token_that_cannot_be_renewed_now_leaves_the_answer_as_it_is(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in()
    gateway.access = "cs_log_5"
    gateway.answers["/auth/token"] = lambda _: (503, {})
    assert get(f"{gateway.url}/api").status_code == 401
    assert len(gateway.calls("/api")) == 1


def test_whoever_sends_a_token_of_their_own_keeps_it(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in()
    answer = get(f"{gateway.url}/api", headers={"Authorization": "Bearer cs_pat_0"})
    assert answer.status_code == 401
    (seen,) = gateway.seen
    assert seen.headers["Authorization"] == "Bearer cs_pat_0"


def test_a_gateway_without_a_login_is_told_in_words(gateway: Standin, store: LoginStore) -> None:
    with pytest.raises(NotSignedIn, match=f"Run: countersign login {gateway.url}"):
        get(f"{gateway.url}/api")


def test_a_server_that_wants_no_login_works_as_without(gateway: Standin, store: LoginStore) -> None:
    gateway.answers["/api"] = lambda _: (200, {})
    assert get(f"{gateway.url}/api").status_code == 200


def test_a_token_that_was_not_taken_is_renewed_and_the_request_sent_again(
    gateway: Standin, signed_in: KeepLogin
) -> None:
    signed_in()
    gateway.access = "cs_log_5"  # by the gateway's clock, which is right, the token that we have is over
    answer = requests.put(f"{gateway.url}/file", data=io.BytesIO(b"_weights"), auth=GatewayAuth(), timeout=10)
    assert answer.status_code == 200
    first, second = gateway.calls("/file")
    assert first.body == second.body == b"_weights"
    assert second.headers["Authorization"] == "Bearer cs_log_6"


def test_a_file_is_sent_again_from_where_it_began(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in()
    gateway.access = "cs_log_5"
    file = io.BytesIO(b"skipped weights")
    file.seek(8)
    assert requests.put(f"{gateway.url}/file", data=file, auth=GatewayAuth(), timeout=10).status_code == 200
    assert [seen.body for seen in gateway.calls("/file")] == [b"weights", b"weights"]


def test_what_cannot_be_sent_again_is_not(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in()
    gateway.access = "cs_log_5"

    def parts() -> Iterator[bytes]:
        yield from ()

    assert requests.post(f"{gateway.url}/api", data=parts(), auth=GatewayAuth(), timeout=10).status_code == 401
    assert len(gateway.calls("/api")) == 1


def test_a_login_that_was_ended_elsewhere_is_told_in_words(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in()
    gateway.ended = True
    with pytest.raises(NotSignedIn, match="has ended"):
        get(f"{gateway.url}/api")


def test_an_outage_during_a_refresh_is_left_to_whoever_tries_again(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in(age_s=901)
    right, away = gateway.tokens, [503]
    gateway.answers["/auth/token"] = lambda _: (away.pop(), {}) if away else right()
    gateway.access = "cs_log_5"
    assert get(f"{gateway.url}/api").status_code == 200
    assert [seen.headers["Authorization"] for seen in gateway.calls("/api")] == ["Bearer cs_log_0", "Bearer cs_log_6"]


def test_a_token_that_is_refused_again_and_again_is_renewed_once(gateway: Standin, signed_in: KeepLogin) -> None:
    signed_in()
    gateway.answers["/api"] = lambda _: (401, {})
    assert get(f"{gateway.url}/api").status_code == 401
    assert len(gateway.calls("/api")) == 2
    assert len(gateway.forms("/auth/token")) == 1


@pytest.fixture
def identity(gateway: Standin, store: LoginStore, no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline's, for the gateway that is named; and no login."""
    monkeypatch.setenv("COUNTERSIGN_URL", gateway.url)
    monkeypatch.setenv("COUNTERSIGN_ID_TOKEN", "ey.of.a-pipeline")


@pytest.mark.usefixtures("identity")
def test_without_a_login_a_pipelines_identity_counts_and_is_exchanged_again(gateway: Standin) -> None:
    assert get(f"{gateway.url}/api").status_code == 200
    gateway.access = "cs_log_5"  # the token has ended, in the middle of a long training
    assert get(f"{gateway.url}/api").status_code == 200
    assert [seen.headers["Authorization"] for seen in gateway.calls("/api")][-1] == "Bearer cs_log_6"
    assert [form["scope"] for form in gateway.forms("/auth/token")] == ["registry track"] * 2


@pytest.mark.usefixtures("identity")
def test_an_identity_goes_to_the_gateway_that_is_named_and_to_nobody_else(
    elsewhere: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.answers["/api"] = lambda _: (200, {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere.url)
    monkeypatch.setenv("COUNTERSIGN_TOKEN", "cs_pat_0")
    assert get(f"{elsewhere.url}/api").status_code == 200
    (arrived,) = elsewhere.seen
    assert "Authorization" not in arrived.headers


@pytest.mark.usefixtures("identity")
def test_an_outage_during_an_exchange_is_left_to_whoever_tries_again(gateway: Standin) -> None:
    right, away = gateway.tokens, [503]
    gateway.answers["/auth/token"] = lambda _: (away.pop(), {}) if away else right()
    assert get(f"{gateway.url}/api").status_code == 200
    assert [seen.headers.get("Authorization") for seen in gateway.calls("/api")] == [None, "Bearer cs_log_1"]


def test_mlflow_finds_it_by_its_name() -> None:
    from mlflow.tracking.request_auth.registry import fetch_auth

    assert isinstance(fetch_auth("countersign"), GatewayAuth)
