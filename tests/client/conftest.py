"""A gateway's stand-in, and a file of logins for the test alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from countersign_client.store import Login, LoginStore

from tests.client.standin import Standin, running_standin


@pytest.fixture
def gateway() -> Iterator[Standin]:
    with running_standin() as gateway:
        yield gateway


@pytest.fixture
def elsewhere() -> Iterator[Standin]:
    """Another server on this machine."""
    with running_standin() as elsewhere:
        yield elsewhere


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoginStore:
    """The one that is used when none is named, too."""
    path = tmp_path / "countersign" / "logins.json"
    monkeypatch.setenv("COUNTERSIGN_CREDENTIALS_FILE", str(path))
    return LoginStore()


@pytest.fixture
def signed_in(gateway: Standin, store: LoginStore) -> Callable[..., Login]:
    """Keep a login at the stand-in, whose token began ``age_s`` seconds ago."""

    def keep(*, age_s: float = 0, lasts_s: float = 900) -> Login:
        began = time.time() - age_s
        login = Login(
            gateway=gateway.url,
            client_id="countersign-cli",
            scopes=("track",),
            token_endpoint=f"{gateway.url}/auth/token",
            revocation_endpoint=f"{gateway.url}/auth/revoke",
            obtained_at=began,
            expires_at=began + lasts_s,
            access_token=gateway.access,
            refresh_token=gateway.refresh,
        )
        with store.locked():
            store.put(login)
        return login

    return keep
