"""Whom we believe: the issuer of the settings, and the issuers and clients of the identity file beside it."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from app.adapters import strict_yaml
from app.adapters.secrets import Secrets
from app.domain.clients import Clients, clients_from_documents
from app.domain.errors import InvalidConfiguration
from app.domain.issuers import SignIn, TrustedIssuer, check_issuers, read_issuers
from app.settings import Settings

DEFAULT = "default"
"""The short name of the issuer of the settings."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """Issuers of tokens, providers where people sign in among them, and clients of ours."""

    issuers: tuple[TrustedIssuer, ...]
    clients: Clients


def read_trusted(settings: Settings) -> Trusted:
    """Everything that is trusted.

    Raises:
        InvalidConfiguration: a line for each problem, beginning with the name of the setting.
    """
    document: object = None
    if settings.identity_file is not None:
        try:
            document = strict_yaml.load(settings.identity_file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
            raise InvalidConfiguration(
                f"COUNTERSIGN_IDENTITY_FILE: {settings.identity_file} cannot be read: {reason}"
            ) from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f", line {mark.line + 1}" if mark else ""
            raise InvalidConfiguration(
                f"COUNTERSIGN_IDENTITY_FILE{where}: expected YAML: {getattr(error, 'problem', None) or error}"
            ) from None
    try:
        issuers = (_of_settings(settings), *read_issuers(document, Secrets().read))
        check_issuers(issuers)
        clients = clients_from_documents(document.get("clients") if isinstance(document, dict) else None)
    except InvalidConfiguration as error:
        lines = "\n".join(f"COUNTERSIGN_IDENTITY_FILE: {line}" for line in error.message.splitlines())
        raise InvalidConfiguration(lines if settings.identity_file else error.message) from None
    return Trusted(issuers, clients)


def _of_settings(settings: Settings) -> TrustedIssuer:
    secret = settings.oidc_client_secret
    sign_in = (
        SignIn(
            client_id=settings.oidc_client_id,
            client_secret=secret.get_secret_value() if secret else None,
            scopes=tuple(settings.oidc_scopes),
            title=settings.oidc_title,
        )
        if settings.oidc_client_id
        else None
    )
    return TrustedIssuer(
        name=DEFAULT,
        issuer=settings.oidc_issuer,
        audiences=frozenset({settings.oidc_audience}),
        algorithms=tuple(settings.oidc_algorithms),
        groups_claim=settings.oidc_groups_claim,
        username_claim=settings.oidc_username_claim,
        leeway_s=settings.oidc_leeway_s,
        service_groups=frozenset(settings.service_groups),
        sign_in=sign_in,
    )
