"""Ray's Serve REST API: read what runs, replace what is declared. No ``ray`` package is needed for it."""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any, Protocol, Self

import httpx

from countersign_ray_serve.settings import Settings

Json = dict[str, Any]


class RayUnreachable(Exception):
    """Ray did not answer, or did not let us in. Trying again later may help."""


class _NotThere(RayUnreachable):
    pass


class RayRefused(Exception):
    """Ray read our configuration and refused it. The message is Ray's."""


class Ray(Protocol):
    """What is told what to serve: Ray's dashboard, or KubeRay's ``RayService``."""

    async def version(self) -> str:
        """Ray's version."""

    async def details(self) -> Json:
        """All applications with their status, in the shape of Serve's answer."""

    async def apply(self, config: Json) -> None:
        """Have Serve run exactly this. It is accepted at once and worked on in the background.

        Raises:
            RayRefused: the configuration is not valid.
            RayUnreachable: it was not taken; the next look tells.
        """

    async def has_package(self, uri: str) -> bool:
        """Whether Ray has a package (``gcs://…``)."""

    async def put_package(self, uri: str, content: bytes) -> None:
        """Give Ray a package."""


OLDEST = (2, 60)
"""The oldest Ray these rollouts were seen to work on; those before drop ``max_surge_percent`` without a word."""
NEWEST_TESTED = (2, 60)


def judge_version(version: str) -> str | None:
    """Why Ray's version is not supported; ``None`` if it is."""
    oldest = ".".join(map(str, OLDEST))
    return None if _number(version) >= OLDEST else f"Ray {version} is not supported: {oldest} is the oldest that is."


def is_untested(version: str) -> bool:
    """Whether Ray is newer than what was tested."""
    return _number(version) > NEWEST_TESTED


def _number(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class ServeApi:
    """A client of one Ray cluster's dashboard. Never call ``DELETE``: it shuts Serve down for everybody."""

    def __init__(self, settings: Settings) -> None:
        token = settings.dashboard_token
        self._client = httpx.AsyncClient(
            base_url=settings.dashboard_url,
            timeout=settings.dashboard_timeout_s,
            headers={"Authorization": f"Bearer {token.get_secret_value()}"} if token else {},
            trust_env=False,  # no proxy gets the token to see
        )

    async def version(self) -> str:
        """Ray's version."""
        answer = await self._call("GET", "/api/version")
        return str(_read(answer).get("ray_version"))

    async def details(self) -> Json:
        """All applications with their status, as Serve tells it."""
        return _read(await self._call("GET", "/api/serve/applications/"))

    async def apply(self, config: Json) -> None:
        """Replace all declared applications. Serve accepts at once and works in the background.

        Raises:
            RayRefused: the configuration is not valid.
            RayUnreachable: Ray did not answer, or not in time.
        """
        await self._call("PUT", "/api/serve/applications/", json=config)

    async def has_package(self, uri: str) -> bool:
        try:
            await self._call("GET", _package_path(uri))
        except _NotThere:
            return False
        return True

    async def put_package(self, uri: str, content: bytes) -> None:
        await self._call("PUT", _package_path(uri), content=content)

    async def _call(
        self, method: str, path: str, *, json: Json | None = None, content: bytes | None = None
    ) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, json=json, content=content)
        except httpx.HTTPError as error:
            raise RayUnreachable(f"Ray's dashboard does not answer: {type(error).__name__}") from None
        if answer.status_code in {401, 403}:
            raise RayUnreachable(f"Ray's dashboard does not accept our token (HTTP {answer.status_code})")
        if answer.status_code == 400:
            raise RayRefused(answer.text[:2000])
        if answer.status_code == 404:
            raise _NotThere(f"Ray's dashboard has no {path}")
        if answer.is_error or answer.is_redirect:
            raise RayUnreachable(f"Ray's dashboard answered HTTP {answer.status_code}")
        return answer

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()


def _read(answer: httpx.Response) -> Json:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RayUnreachable("Ray's dashboard did not answer as one: is DASHBOARD_URL its address?")
    return body


def _package_path(uri: str) -> str:
    protocol, _, name = uri.partition("://")
    return f"/api/packages/{protocol}/{name}"
