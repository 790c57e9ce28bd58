"""Each route of ``/control/v1``, as it describes itself: closed without a token, and to who holds no role."""

from __future__ import annotations

import re

import httpx

from tests.platform import Countersign

SIGNED = "/control/v1/deployments/{deployment_id}/status"


def test_every_route_is_closed_to_nobody_and_to_strangers(service: Countersign) -> None:
    paths = httpx.get(f"{service.url}/control/v1/openapi.json", timeout=30, trust_env=False).json()["paths"]
    routes = [
        (method.upper(), path) for path, methods in paths.items() if path.startswith("/control") for method in methods
    ]
    assert len(routes) > 15
    for method, path in routes:
        address = re.sub(r"{\w+}", "x", path).removeprefix("/control/v1")
        assert service.call(None, method, address).status_code == 401, (method, path)
        # A deployer's report is signed and needs no token; a token is worth nothing there.
        expected = 401 if path == SIGNED else 403
        assert service.call("stranger", method, address).status_code == expected, (method, path)
