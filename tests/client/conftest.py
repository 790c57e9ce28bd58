"""A gateway's stand-in, and a file of logins for the test alone."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from countersign_client.store import Login, LoginStore

from app.cli import main
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


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credential of the machine that runs the tests counts."""
    for name in (
        *("COUNTERSIGN_TOKEN", "COUNTERSIGN_URL", "COUNTERSIGN_AUDIENCE"),
        *("COUNTERSIGN_ID_TOKEN", "COUNTERSIGN_ID_TOKEN_FILE"),
        *("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_URI"),
        *("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"),
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def command(store: LoginStore, no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run it; its exit status."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, piped: str = "") -> int:
        monkeypatch.setattr(sys, "argv", ["countersign", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    return run
