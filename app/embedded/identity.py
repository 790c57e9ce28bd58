"""The demo people, and their access tokens obtained from the identity provider as any OAuth client would."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

from authlib.common.errors import AuthlibBaseError  # type: ignore[import-untyped, unused-ignore]
from authlib.integrations.requests_client import OAuth2Session  # type: ignore[import-untyped, unused-ignore]

from app.domain.errors import Unavailable
from app.embedded.environment import DataFolder, secret
from app.embedded.ports import LOOPBACK
from app.embedded.probes import answers
from app.embedded.supervisor import Part

PEOPLE = {
    "scientist": "scientists",
    "approver": "approvers",
    "second-approver": "approvers",
    "administrator": "administrators",
    "serving": "services",
}
"""Who exists, and the group that gives their role."""

ROLES = {
    "requester": ["scientists"],
    "approver": ["approvers"],
    "administrator": ["administrators"],
    "auditor": ["administrators"],
    "serving": ["services"],
}
SERVICE_GROUPS = "services"

AUDIENCE = "countersign"
CLIENT = "countersign-cli"
WEB_CLIENT = "countersign-web"
"""With which people sign in in a browser. Its ID tokens are for itself, so that none passes for an access token."""
PUBLIC = "none"
"""A public client shows no secret (RFC 7591 section 2)."""
SCOPES = "openid profile email groups"
TOKEN_LIFETIME_S = 8 * 60 * 60


@dataclass(frozen=True, slots=True)
class Person:
    """One of the demo people. The password and the token are left out of what is printed."""

    username: str
    password: str = field(repr=False)
    access_token: str = field(repr=False)


def password_of(folder: DataFolder, name: str) -> str:
    """A person's password, made once per data folder."""
    return secret(folder, f"{name}.password", lambda: secrets.token_urlsafe(18))[1]


def client_secret(folder: DataFolder, client: str) -> tuple[Path, str]:
    """The secret of a confidential client and its file, made once per data folder."""
    return secret(folder, f"{client}.client-secret", lambda: secrets.token_urlsafe(32))


def issuer_of(port: int) -> str:
    """The issuer, as tokens name it."""
    return f"http://{LOOPBACK}:{port}"


def identity_part(folder: DataFolder, port: int, gateway: str) -> Part:
    """The identity provider, where people come from ``gateway`` to sign in."""
    issuer = issuer_of(port)
    client_secret(folder, WEB_CLIENT)  # before two processes look for it at once

    async def has_discovery() -> bool:
        return await answers(f"{issuer}/.well-known/openid-configuration")

    return Part(
        name="canaille",
        title="Identity provider",
        command=[sys.executable, "-P", "-m", "app.embedded.identity_server", str(folder.root), str(port), gateway],
        environment={},
        log=folder.logs / "canaille.log",
        is_ready=has_discovery,
        address=issuer,
        folder=folder.identity,
        wave=1,
    )


async def sign_in(folder: DataFolder, issuer: str) -> dict[str, Person]:
    """Every demo person with a fresh access token.

    Raises:
        Unavailable: the identity provider refused one of them.
    """
    return await asyncio.to_thread(_sign_in, folder, issuer)


def _sign_in(folder: DataFolder, issuer: str) -> dict[str, Person]:
    people = {}
    with OAuth2Session(CLIENT, token_endpoint_auth_method=PUBLIC, scope=SCOPES) as session:
        session.trust_env = False
        try:
            endpoint = session.get(f"{issuer}/.well-known/openid-configuration", withhold_token=True, timeout=30)
            for name in PEOPLE:
                password = password_of(folder, name)
                token = session.fetch_token(
                    endpoint.json()["token_endpoint"], username=name, password=password, timeout=30
                )
                people[name] = Person(name, password, str(token["access_token"]))
        except (AuthlibBaseError, OSError, ValueError, KeyError) as error:
            raise Unavailable(
                f"the identity provider gave no access tokens ({error}); see {folder.logs / 'canaille.log'}"
            ) from None
    return people


def gateway_settings(folder: DataFolder, issuer: str) -> dict[str, str]:
    """What the gateway and the worker must know of this identity provider."""
    secret_file, _ = client_secret(folder, WEB_CLIENT)
    further = {"COUNTERSIGN_IDENTITY_FILE": str(folder.identity_file)} if folder.identity_file.exists() else {}
    return {
        **further,
        "COUNTERSIGN_OIDC_ISSUER": issuer,
        "COUNTERSIGN_OIDC_AUDIENCE": AUDIENCE,
        "COUNTERSIGN_OIDC_ALGORITHMS": "RS256",
        "COUNTERSIGN_OIDC_GROUPS_CLAIM": "groups",
        "COUNTERSIGN_OIDC_CLIENT_ID": WEB_CLIENT,
        "COUNTERSIGN_OIDC_CLIENT_SECRET_FILE": str(secret_file),
        "COUNTERSIGN_OIDC_TITLE": "Canaille",
        "COUNTERSIGN_ROLES": json.dumps(ROLES),
        "COUNTERSIGN_SERVICE_GROUPS": SERVICE_GROUPS,
    }
