"""What a gateway says of itself, from its address alone (RFC 9728, then RFC 8414), and nothing that it says of
somebody else is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from countersign_client.addresses import gateway_address, origin_of
from countersign_client.errors import InvalidAddress, Refused
from countersign_client.wire import get, plain


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where to send what. All of them are at the gateway itself."""

    issuer: str
    authorization: str
    token: str
    device_authorization: str
    revocation: str


def discover(address: str) -> Endpoints:
    """The endpoints of the gateway at ``address``.

    Raises:
        InvalidAddress: no address, or one that the gateway does not call its own.
        Refused: it is no gateway, gives out no tokens, or says something that is not believed.
        Unreachable: it does not answer.
    """
    gateway = gateway_address(address)
    resource = get(f"{gateway}/.well-known/oauth-protected-resource")
    # Whoever answers at one address for another could have tokens made out for that one (RFC 9728 section 3.3).
    if _own_address(resource.get("resource")) != gateway:
        raise InvalidAddress(f"The gateway at {gateway} calls itself {_shown(resource.get('resource'))}: use that.")
    servers = resource.get("authorization_servers")
    if not isinstance(servers, list) or gateway not in map(_own_address, servers):
        raise Refused(f"The gateway at {gateway} gives out no tokens of its own. Ask its operator.")
    metadata = get(f"{gateway}/.well-known/oauth-authorization-server")
    if _own_address(metadata.get("issuer")) != gateway:  # RFC 8414 section 3.3
        raise Refused(f"{gateway} answers in the name of {_shown(metadata.get('issuer'))}. Do not sign in there.")
    return Endpoints(
        issuer=str(metadata["issuer"]),
        authorization=_endpoint(gateway, metadata, "authorization_endpoint"),
        token=_endpoint(gateway, metadata, "token_endpoint"),
        device_authorization=_endpoint(gateway, metadata, "device_authorization_endpoint"),
        revocation=_endpoint(gateway, metadata, "revocation_endpoint"),
    )


def _endpoint(gateway: str, metadata: Mapping[str, object], name: str) -> str:
    url = metadata.get(name)
    if not isinstance(url, str) or origin_of(url) != gateway:
        raise Refused(f"The gateway at {gateway} names no {name} of its own.")
    return url


def _own_address(value: object) -> str | None:
    try:
        return gateway_address(value) if isinstance(value, str) else None
    except InvalidAddress:
        return None


def _shown(value: object) -> str:
    return plain(value) or "nothing"
