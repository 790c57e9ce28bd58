"""Canaille, an OpenID provider, with the demo people and clients in it. Runs as a process of its own.

Canaille is used as published: this module writes its configuration, makes sure that people, groups and clients exist,
and serves it with Hypercorn.
"""

# ruff: noqa: ANN401  # Canaille has no types

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import tomlkit
from asgiref.wsgi import WsgiToAsgi
from canaille.app import models  # type: ignore[import-untyped, unused-ignore]
from canaille.backends import Backend  # type: ignore[import-untyped, unused-ignore]
from canaille.hypercorn.app import create_app  # type: ignore[import-untyped, unused-ignore]
from hypercorn.asyncio import serve as serve_asgi
from hypercorn.config import Config
from joserfc.jwk import RSAKey

from app.embedded.environment import DataFolder, secret, write_atomically
from app.embedded.identity import (
    AUDIENCE,
    CLIENT,
    PEOPLE,
    PUBLIC,
    SCOPES,
    TOKEN_LIFETIME_S,
    WEB_CLIENT,
    client_secret,
    password_of,
)
from app.embedded.ports import LOOPBACK

ALGORITHM = "RS256"
"""Canaille signs access tokens as it signs ID tokens."""


def write_configuration(folder: DataFolder, port: int) -> Path:
    """Canaille's TOML. The signing key and the session key are kept, so that a restart invalidates nothing."""
    _, key = secret(folder, "identity-key.jwk", lambda: json.dumps(RSAKey.generate_key(2048).as_dict(private=True)))
    _, session_key = secret(folder, "identity-session.key", lambda: secrets.token_urlsafe(32))
    configuration = {
        "SECRET_KEY": session_key,
        "SERVER_NAME": f"{LOOPBACK}:{port}",
        "PREFERRED_URL_SCHEME": "http",
        "DEBUG": False,
        "OAUTH2_TOKEN_EXPIRES_IN": {"password": TOKEN_LIFETIME_S, "refresh_token": TOKEN_LIFETIME_S},
        "CANAILLE": {
            "NAME": "Countersign demo",
            "DATABASE": "sql",
            "LANGUAGE": "en",
            "ENABLE_PASSWORD_RECOVERY": False,
            # Nobody may rename themselves or make groups: names and groups decide who may approve.
            "ACL": {
                "DEFAULT": {"PERMISSIONS": ["use_oidc"], "READ": ["user_name", "groups"], "WRITE": []},
                "ADMINISTRATORS": {
                    "FILTER": {"groups": "administrators"},
                    "PERMISSIONS": ["use_oidc", "manage_users", "manage_all_groups", "manage_oidc"],
                    "WRITE": ["groups", "display_name", "given_name", "family_name", "emails", "password", "lock_date"],
                },
            },
        },
        "CANAILLE_SQL": {"DATABASE_URI": f"sqlite:///{folder.identity / 'canaille.sqlite'}"},
        "CANAILLE_OIDC": {"ACTIVE_JWKS": [json.loads(key)]},
    }
    path = folder.identity / "canaille.toml"
    write_atomically(path, tomlkit.dumps(configuration))
    return path


def create_provider(configuration: Path) -> Any:
    """The Flask application, its database migrated."""
    os.environ["CANAILLE_CONFIG"] = str(configuration)
    # Without this it would look for a mail server on this machine, and TOML has no way to say none.
    return create_app(config={"CANAILLE": {"SMTP": None}}, wrap_asgi=False)


def provision(application: Any, folder: DataFolder, gateway: str) -> None:
    """Make sure that demo people, groups and clients exist, with the passwords kept in the data folder."""
    with application.app_context(), Backend.instance.session():
        for name, group in PEOPLE.items():
            person = _person(name, password_of(folder, name))
            _membership(group, person)
        resource = _client(AUDIENCE, client_name="Countersign", client_secret=client_secret(folder, AUDIENCE)[1])
        _client(
            CLIENT,
            client_name="Countersign command line",
            token_endpoint_auth_method=PUBLIC,
            id_token_signed_response_alg=ALGORITHM,
            # No grant that issues ID tokens: Canaille gives them the audience of access tokens, and the gateway tells
            # the two apart by audience alone.
            grant_types=["password", "refresh_token"],
            scope=SCOPES.split(),
            audience=[resource],
        )
        _client(
            WEB_CLIENT,
            client_name="Countersign",
            client_secret=client_secret(folder, WEB_CLIENT)[1],
            token_endpoint_auth_method="client_secret_basic",  # noqa: S106  # a method, no secret
            id_token_signed_response_alg=ALGORITHM,
            grant_types=["authorization_code"],
            response_types=["code"],
            scope=SCOPES.split(),
            redirect_uris=[f"{gateway}/auth/callback/default"],
            post_logout_redirect_uris=[f"{gateway}/auth/signed-out"],
            # On loopback Canaille trusts it by this, and asks nobody to agree that we may know their name.
            client_uri=gateway,
        )


def _person(name: str, password: str) -> Any:

    person = Backend.instance.get(models.User, user_name=name)
    if person is None:
        title = name.replace("-", " ").capitalize()
        person = models.User(user_name=name, formatted_name=title, family_name=title, display_name=name)
        person.emails = [f"{name}@example.org"]
    if person.password != password:
        person.password = password
    Backend.instance.save(person)
    return person


def _membership(group_name: str, person: Any) -> None:

    group = Backend.instance.get(models.Group, display_name=group_name)
    if group is None:
        group = models.Group(display_name=group_name, members=[person])
    elif person not in group.members:
        group.members = [*group.members, person]
    Backend.instance.save(group)


def _client(client_id: str, *, audience: list[Any] | None = None, **attributes: Any) -> Any:

    client = Backend.instance.get(models.Client, client_id=client_id)
    if client is None:
        client = models.Client(client_id=client_id, client_id_issued_at=dt.datetime.now(dt.UTC))
    for name, value in {"grant_types": [], "response_types": [], "redirect_uris": [], **attributes}.items():
        setattr(client, name, value)
    Backend.instance.save(client)
    client.audience = audience if audience is not None else [client]
    Backend.instance.save(client)
    return client


def serve(folder: DataFolder, port: int, gateway: str) -> None:
    """Serve until SIGTERM. ``gateway`` is the address from which people come to sign in."""
    application = create_provider(write_configuration(folder, port))
    provision(application, folder, gateway)
    config = Config()
    config.bind = [f"{LOOPBACK}:{port}"]
    config.accesslog = None
    asyncio.run(serve_asgi(WsgiToAsgi(application), config))  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    serve(DataFolder(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3])
