"""The closed routes that an operator may open, and those that stay closed whatever is set.

A route may be opened where nothing that a promotion rests on can be moved, deleted or overwritten through it; what it
costs besides is the operator's to weigh. ``COUNTERSIGN_OPEN_ROUTES`` names what shall be open.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.domain.access import Permission
from app.domain.errors import InvalidConfiguration


@dataclass(frozen=True, slots=True)
class Opening:
    """What is needed to use a family of routes once it is open, and what it then does."""

    permission: Permission
    reason: str


OPENINGS: Mapping[str, Opening] = {
    "ai-gateway": Opening(
        Permission.SERVER_ADMINISTER,
        "Administers the keys, endpoints, budgets and guardrails of MLflow's AI gateway. Opened by the operator.",
    ),
    "ai-gateway-invoke": Opening(
        Permission.TRACKING_WRITE,
        "Calls a model through MLflow's AI gateway, which spends the provider keys it stores. Opened by the operator.",
    ),
    "ai-gateway-passthrough": Opening(
        Permission.SERVER_ADMINISTER,
        "Sends anything to a model provider with the key that MLflow's AI gateway stores. Opened by the operator.",
    ),
    "mcp-servers": Opening(
        Permission.SERVER_ADMINISTER,
        "Moves aliases of MCP servers and deletes MCP servers, which no policy covers. Opened by the operator.",
    ),
    "presigned-downloads": Opening(
        Permission.TRACKING_READ,
        "Gives an address at the object store that reads one artifact until it expires. Opened by the operator.",
    ),
    "server-jobs": Opening(
        Permission.SERVER_ADMINISTER,
        "Runs MLflow's own jobs on its host, where they call MLflow past this door. Opened by the operator.",
    ),
    "webhooks": Opening(
        Permission.SERVER_ADMINISTER,
        "Administers MLflow's own webhooks, which are lost in a crash and name no actor. Opened by the operator.",
    ),
    "workspaces": Opening(
        Permission.SERVER_ADMINISTER,
        "Creates workspaces; through this door only the default one is reached. Opened by the operator.",
    ),
}

NEVER: Mapping[str, str] = {
    "assistant": "MLflow's assistant runs tools on MLflow's host, and trusts whoever reaches it from that host.",
    "demo": "The demo moves and deletes aliases named `production` inside MLflow, where no guard sees it.",
    "graphql-get": "MLflow reads the query of a GET from its body, which a GET has not here; send it with POST.",
    "presigned-uploads": "An address to write at outlives the right to write, and leads past every guard of the bytes.",
    "promptlab": "A prompt-lab run logs a model from inside MLflow, past the guards of artifacts.",
    "users": "MLflow's accounts have no say behind this door: people come from the identity provider.",
    "workspace-changes": "Deleting a workspace moves or deletes its aliases, and changing one moves where new "
    "artifacts go, out of the guarded storage.",
}


def check_openings(names: Iterable[str]) -> frozenset[str]:
    """The names, if each is an opening.

    Raises:
        InvalidConfiguration: a name is unknown, or is one of ``NEVER``; the reason is given.
    """
    wanted = frozenset(names)
    for name in sorted(wanted - OPENINGS.keys()):
        known = f"expected some of {', '.join(OPENINGS)}"
        if name in NEVER:
            raise InvalidConfiguration(f"{name} cannot be opened: {NEVER[name]} ({known})")
        raise InvalidConfiguration(f"{name} is not known; {known}")
    return wanted
