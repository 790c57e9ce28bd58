"""Settings that must be right before anything starts."""

from __future__ import annotations

import pytest

from app.domain.errors import InvalidConfiguration
from app.domain.storage import Storage
from app.settings import Settings, load_settings

NEEDED = {
    "DATABASE_URL": "postgresql://u:p@127.0.0.1/d",
    "PUBLIC_URL": "https://countersign.example/",
    "UPSTREAM_URLS": "http://127.0.0.1:5000, http://127.0.0.1:5001",
    "ARTIFACTS_DESTINATION": "s3://served/prefix/",
    "OIDC_ISSUER": "https://issuer.example",
    "OIDC_AUDIENCE": "countersign",
}


def settings(monkeypatch: pytest.MonkeyPatch, **changed: str) -> Settings:
    for name, value in (NEEDED | changed).items():
        monkeypatch.setenv(f"COUNTERSIGN_{name}", value)
    return load_settings()


def test_where_artifacts_lie_is_one_value(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, ARTIFACT_ROOTS="s3://direct/root/, gs://bucket")
    servers = ("http://127.0.0.1:5000", "http://127.0.0.1:5001", "https://countersign.example")
    assert found.storage == Storage("s3://served/prefix", ("s3://direct/root", "gs://bucket"), servers)
    assert settings(monkeypatch, ARTIFACT_ROOTS="").storage.roots == ()


@pytest.mark.parametrize(
    "root", ["/srv/artifacts", "file:///srv", "s3://", "s3://user:secret@bucket", "s3://b/../c", "*"]
)
def test_a_root_that_is_none_is_named_with_its_setting(monkeypatch: pytest.MonkeyPatch, root: str) -> None:
    with pytest.raises(InvalidConfiguration, match="COUNTERSIGN_ARTIFACT_ROOTS"):
        settings(monkeypatch, ARTIFACT_ROOTS=f"s3://good, {root}")
