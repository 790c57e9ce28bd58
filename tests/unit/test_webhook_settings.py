"""Settings of webhooks: a key of enough bytes, and a proxy that is one; neither is shown when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.domain.errors import InvalidConfiguration
from app.settings import load_settings

NEEDED = {
    "DATABASE_URL": "postgresql://u@db/d",
    "PUBLIC_URL": "https://gate.example",
    "UPSTREAM_URLS": "http://mlflow:5000",
    "ARTIFACTS_DESTINATION": "/artifacts",
    "OIDC_ISSUER": "https://issuer.example",
    "OIDC_AUDIENCE": "gate",
}


@pytest.fixture(autouse=True)
def _needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NEEDED.items():
        monkeypatch.setenv(f"COUNTERSIGN_{name}", value)


def test_the_webhook_key_comes_from_its_file_and_is_masked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k" * 32 + "\n")
    monkeypatch.setenv("COUNTERSIGN_WEBHOOK_KEY_FILE", str(tmp_path / "key"))
    key = load_settings().webhook_key
    assert key is not None
    assert key.get_secret_value() == "k" * 32
    assert "kk" not in repr(load_settings())


def test_an_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WEBHOOK_KEY", "WEBHOOK_PROXY", "WEBHOOK_CA_FILE"):
        monkeypatch.setenv(f"COUNTERSIGN_{name}", "")
    settings = load_settings()
    assert (settings.webhook_key, settings.webhook_proxy, settings.webhook_ca_file) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("WEBHOOK_KEY", "s3cret", "at least 32 bytes"),
        ("WEBHOOK_PROXY", "s3cret:3128", "expected http://host:port"),
        ("WEBHOOK_PROXY", "https://proxy.example:3128/s3cret", "expected http://host:port"),
        ("WEBHOOK_PROXY", "socks5://u:s3cret@proxy.example", "expected http://host:port"),
        ("WEBHOOK_PROXY", "http://u:s3cret@proxy.example:x", "WEBHOOK_PROXY"),
    ],
)
def test_a_wrong_setting_is_told_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(f"COUNTERSIGN_{name}", value)
    with pytest.raises(InvalidConfiguration, match=says) as refused:
        load_settings()
    assert "s3cret" not in refused.value.message
