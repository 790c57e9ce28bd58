"""The gateway's side of the shared secret: long enough, from a variable or a file, and never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.errors import InvalidConfiguration
from app.settings import Settings, load_settings
from tests.mlflow_plugin.conftest import SECRET

VARIABLE = "COUNTERSIGN_ASSERTION_SECRET"
COMPLETE = {
    "COUNTERSIGN_DATABASE_URL": "postgresql://u:p@localhost/db",
    "COUNTERSIGN_PUBLIC_URL": "http://localhost:8080",
    "COUNTERSIGN_UPSTREAM_URLS": "http://localhost:5000",
    "COUNTERSIGN_ARTIFACTS_DESTINATION": "/srv/artifacts",
    "COUNTERSIGN_OIDC_ISSUER": "https://issuer.example",
    "COUNTERSIGN_OIDC_AUDIENCE": "countersign",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    for name in (VARIABLE, f"{VARIABLE}_FILE"):
        monkeypatch.delenv(name, raising=False)


def shown(settings: Settings) -> str:
    return settings.assertion_secret.get_secret_value() if settings.assertion_secret else ""


def test_without_a_secret_there_is_none() -> None:
    assert load_settings().assertion_secret is None


def test_it_comes_from_its_variable_and_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)
    settings = load_settings()
    assert shown(settings) == SECRET
    assert SECRET not in repr(settings)
    assert SECRET not in settings.model_dump_json()


def test_it_comes_from_a_file_without_the_line_break(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    monkeypatch.setenv(f"{VARIABLE}_FILE", str(tmp_path / "secret"))
    assert shown(load_settings()) == SECRET


@pytest.mark.parametrize("secret", ["", "a-short-secret-of-31-bytes-only"])
def test_a_short_one_is_refused_and_not_quoted(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv(VARIABLE, secret)
    with pytest.raises(InvalidConfiguration, match=f"^{VARIABLE}: expected at least 32 bytes") as refusal:
        load_settings()
    assert not secret or secret not in str(refusal.value)


def test_two_of_them_and_a_file_that_is_not_there_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(f"{VARIABLE}_FILE", str(tmp_path / "missing"))
    with pytest.raises(InvalidConfiguration, match=f"{VARIABLE}_FILE: .*missing cannot be read"):
        load_settings()
    monkeypatch.setenv(VARIABLE, SECRET)
    with pytest.raises(InvalidConfiguration, match="set one, not both"):
        load_settings()
