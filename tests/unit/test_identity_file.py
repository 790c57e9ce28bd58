"""The identity file: a mistake in it is named with its setting before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.adapters.identity_file import read_trusted
from app.domain.errors import InvalidConfiguration
from app.settings import Settings


def settings(identity_file: Path | None, **changed: str) -> Settings:
    given = {
        "database_url": "postgresql://u:p@127.0.0.1/d",
        "public_url": "https://countersign.example",
        "upstream_urls": "http://127.0.0.1:5000",
        "artifacts_destination": "/artifacts",
        "oidc_issuer": "https://issuer.example",
        "oidc_audience": "countersign",
    }
    return Settings(**given | changed, identity_file=identity_file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("issuers: [", "expected YAML"),
        ("issuers: [{name: ci, issuer: https://ci.example, audience: x}]", "issuers[0].audience"),
        ("issuers: [{name: ci, issuer: https://issuer.example, audiences: [x]}]", "https://issuer.example"),
        ("clients: [{clientId: page, redirectUris: []}]", "clients[1]"),
        ("people: []", "people"),
    ],
)
def test_a_mistake_is_named_with_its_setting(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "identity.yaml"
    file.write_text(text)
    with pytest.raises(InvalidConfiguration) as refused:
        read_trusted(settings(file))
    assert refused.value.message.startswith("COUNTERSIGN_IDENTITY_FILE")
    assert said in refused.value.message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"COUNTERSIGN_IDENTITY_FILE: .*none\.yaml cannot be read"):
        read_trusted(settings(tmp_path / "none.yaml"))


def test_a_client_whose_id_tokens_would_be_access_tokens_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match="countersign"):
        read_trusted(settings(None, oidc_client_id="countersign"))


def test_without_a_file_there_is_the_issuer_of_the_settings_alone() -> None:
    (issuer,) = read_trusted(settings(None, oidc_client_id="countersign-web")).issuers
    assert (issuer.name, issuer.sign_in and issuer.sign_in.client_id) == ("default", "countersign-web")
