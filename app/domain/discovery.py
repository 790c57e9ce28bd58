"""What a client that knows our address alone is told: where tokens come from, and how (RFC 9728, RFC 8414)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.domain.identity import Scope


class GrantType(StrEnum):
    """For what the token endpoint gives tokens."""

    CODE = "authorization_code"
    REFRESH = "refresh_token"
    DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
    EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@dataclass(frozen=True, slots=True)
class Discovery:
    """``issuers`` are those whose tokens are accepted as they are."""

    public_url: str
    issuers: Sequence[str]

    def protected_resource(self) -> Mapping[str, object]:
        """RFC 9728 section 2."""
        return {
            "resource": self.public_url,
            "authorization_servers": [self.public_url, *self.issuers],
            "scopes_supported": [scope.value for scope in Scope],
            "bearer_methods_supported": ["header"],
            "resource_name": "Countersign",
            "resource_documentation": f"{self.public_url}/control/docs",
        }

    def authorization_server(self) -> Mapping[str, object]:
        """RFC 8414 section 2, RFC 8628 section 4, RFC 9207 section 3."""
        return {
            "issuer": self.public_url,
            "authorization_endpoint": f"{self.public_url}/auth/authorize",
            "token_endpoint": f"{self.public_url}/auth/token",
            "device_authorization_endpoint": f"{self.public_url}/auth/device_authorization",
            "revocation_endpoint": f"{self.public_url}/auth/revoke",
            "scopes_supported": [scope.value for scope in Scope],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": [grant.value for grant in GrantType],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
            "service_documentation": f"{self.public_url}/control/docs",
        }
