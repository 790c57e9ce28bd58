"""Ray's Serve REST API: read what runs, replace what is declared. No ``ray`` package is needed for it."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

from countersign_ray_serve.settings import Settings

Json = dict[str, Any]


class RayUnreachable(Exception):
    """Ray did not answer, or did not let us in. Trying again later may help."""


class RayRefused(Exception):
    """Ray read our configuration and refused it. The message is Ray's."""


class ServeApi:
    """A client of one Ray cluster's dashboard. Never call ``DELETE``: it shuts Serve down for everybody."""

    def __init__(self, settings: Settings) -> None:
        token = settings.dashboard_token
        self._client = httpx.AsyncClient(
            base_url=settings.dashboard_url,
            timeout=settings.dashboard_timeout_s,
            headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else {},
        )

    async def version(self) -> str:
        """Ray's version."""
        answer = await self._call("GET", "/api/version")
        return str(answer.json().get("ray_version"))

    async def details(self) -> Json:
        """All applications with their status, as Serve tells it."""
        answer = await self._call("GET", "/api/serve/applications/")
        details: Json = answer.json()
        return details

    async def apply(self, config: Json) -> None:
        """Replace all declared applications. Serve accepts at once and works in the background.

        Raises:
            RayRefused: the configuration is not valid.
            RayUnreachable: Ray did not answer, or not in time.
        """
        await self._call("PUT", "/api/serve/applications/", json=config)

    async def _call(self, method: str, path: str, *, json: Json | None = None) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, json=json)
        except httpx.HTTPError as error:
            raise RayUnreachable(f"Ray's dashboard does not answer: {type(error).__name__}") from None
        if answer.status_code in {401, 403}:
            raise RayUnreachable(f"Ray's dashboard does not accept our token (HTTP {answer.status_code})")
        if answer.status_code == 400:
            raise RayRefused(answer.text[:2000])
        if answer.is_error or answer.is_redirect:
            raise RayUnreachable(f"Ray's dashboard answered HTTP {answer.status_code}")
        return answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()
