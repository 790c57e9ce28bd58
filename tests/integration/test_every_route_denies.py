"""Each route of ``/control/v1``, as it describes itself: closed without a token, and to who holds no role."""

from __future__ import annotations

import re

import httpx

from tests.platform import Countersign

EVERYBODYS = {
    "/control/v1/grants",  # owners look after those on what they own
    "/control/v1/grants/{name}",
    "/control/v1/logins",
    "/control/v1/logins/{login_id}",
    "/control/v1/me",
    "/control/v1/permissions/check",
    "/control/v1/roles",
    "/control/v1/sessions",
    "/control/v1/sessions/{session_id}",
    "/control/v1/tokens",
    "/control/v1/tokens/{token_id}",
}
"""What whoever was authenticated may ask about themselves; nothing of it is anybody else's."""

ANYBODYS = {
    "/control/v1/events/schemas",  # what events say, for who receives them and has no credential of ours
    "/control/v1/events/schemas/{event_type}",
}


def test_every_route_is_closed_to_nobody_and_to_strangers(service: Countersign) -> None:
    paths = httpx.get(f"{service.url}/control/v1/openapi.json", timeout=30, trust_env=False).json()["paths"]
    routes = [
        (method.upper(), path) for path, methods in paths.items() if path.startswith("/control") for method in methods
    ]
    assert len(routes) > 35
    assert set(paths) >= EVERYBODYS | ANYBODYS
    for method, path in routes:
        if path in ANYBODYS:
            continue
        address = re.sub(r"{\w+}", "x", path).removeprefix("/control/v1")
        assert service.call(None, method, address).status_code == 401, (method, path)
        if path not in EVERYBODYS:
            assert service.call("stranger", method, address).status_code == 403, (method, path)


def test_a_stranger_learns_nothing_of_others(service: Countersign) -> None:
    for listed in ("sessions", "tokens", "logins"):
        everybodys = service.call("stranger", "GET", f"/{listed}", params={"principal": f"{service.issuer.url}|ada"})
        assert everybodys.status_code == 403, listed
        assert service.call("stranger", "DELETE", f"/{listed}/x").status_code in {400, 404}, listed
        assert service.call("stranger", "GET", f"/{listed}").json()["items"] == []
    assert service.call("stranger", "GET", "/grants").json()["items"] == []
    assert service.call("stranger", "GET", "/grants/x").status_code == 404
    document = {"role": "viewer", "subject": {"group": "*"}}
    assert service.call("stranger", "PUT", "/grants/x", json=document).status_code == 403
    assert service.call("stranger", "DELETE", "/grants/x").status_code == 404
