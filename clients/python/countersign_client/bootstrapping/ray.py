"""The Ray that models are to be served by: where it answers, as ``RAY_ADDRESS`` says it, and what it runs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3.exceptions

from countersign_client.addresses import LOOPBACK
from countersign_client.bootstrapping.problems import Problem
from countersign_client.following import Exit
from countersign_client.wire import NO_PROXY

ADDRESS, DASHBOARD = "RAY_ADDRESS", "RAY_DASHBOARD_ADDRESS"
"""What Ray itself reads; the second is that of Serve's own commands, for who has the dashboard elsewhere."""
DASHBOARD_PORT = 8265
_DRIVER_PORTS = frozenset({6379, 10001})
"""Of Ray's own protocols (the cluster's store, Ray Client), which speak to a Ray of the same version alone."""
_EXPECTED = f"expected the address of Ray's dashboard, http://<host>:{DASHBOARD_PORT}"
_TIMEOUT_S = (3, 15)
_PAUSE_S = 1.0
_LARGEST_ANSWER = 16 * 1024 * 1024
_BROKEN = 500
_NO_TOKEN = frozenset({401, 403})


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Where Ray's REST API answers. ``said`` is what there is to say of how it was found."""

    url: str
    said: str = ""


def dashboard_of(environment: Mapping[str, str]) -> Dashboard | Problem:
    """Ray's dashboard: that of ``RAY_DASHBOARD_ADDRESS``, or the one that belongs to ``RAY_ADDRESS``."""
    for setting in (DASHBOARD, ADDRESS):
        if text := environment.get(setting, "").strip():
            return _dashboard(setting, text)
    return Problem(ADDRESS, f"it is not set; {_EXPECTED}")


def _dashboard(setting: str, text: str) -> Dashboard | Problem:
    # Nothing that was refused is quoted: people write passwords and tokens into addresses, and logs keep them.
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme not in {"", "http", "https", "ray"}:
        return Problem(setting, _EXPECTED)
    if text in {"auto", "local"}:
        return Problem(setting, f"{text} is for a process inside of the cluster; {_EXPECTED}")
    try:
        parts = urlsplit(text if scheme else f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return Problem(setting, _EXPECTED)
    if "@" in parts.netloc or parts.query or parts.fragment:
        return Problem(setting, f"{_EXPECTED}, without user, query and fragment")
    if not host or not host.isascii() or not host.isprintable() or " " in host:
        return Problem(setting, _EXPECTED)
    shown = f"[{host}]" if ":" in host else host
    if scheme in {"http", "https"}:
        return Dashboard(f"{scheme}://{shown}{f':{port}' if port else ''}{parts.path.rstrip('/')}")
    if scheme == "ray" or port in _DRIVER_PORTS:
        url = f"http://{shown}:{DASHBOARD_PORT}"
        given = f"{scheme}://{shown}" if scheme else shown
        return Dashboard(
            url,
            f"{setting} is {given}{f':{port}' if port else ''}: Serve is asked at {url}; if its dashboard is "
            f"elsewhere, name it in {DASHBOARD}",
        )
    return Dashboard(f"http://{shown}:{port or DASHBOARD_PORT}")


class Ray:
    """Ray's REST API, of which this reads alone."""

    def __init__(self, dashboard: Dashboard, environment: Mapping[str, str] = os.environ) -> None:
        self.url = dashboard.url
        self._environment = environment

    def reached(self, *, timeout_s: float, say: Callable[[str], None]) -> Problem | None:
        """Wait until Ray answers; what is wrong, if it does not in time."""
        deadline, is_told = time.monotonic() + timeout_s, False
        while True:
            problem, is_final = self._asked()
            if problem is None or is_final or time.monotonic() >= deadline:
                return problem
            if not is_told:
                say(f"{problem.what} Waiting for it, {timeout_s:g} s at most …")
                is_told = True
            time.sleep(min(_PAUSE_S, max(deadline - time.monotonic(), 0)))

    def serves(self, digest: str) -> bool | None:
        """Whether an application of Serve there has loaded what has this digest; none if that cannot be seen."""
        status, document = self._get("/api/serve/applications/")
        applications = document.get("applications") if status == requests.codes.ok else None
        if not isinstance(applications, Mapping):
            return None
        return digest in json.dumps(applications)

    def _asked(self) -> tuple[Problem | None, bool]:
        """What is wrong now, and whether waiting is no use."""
        status, document = self._get("/api/version")
        if status in _NO_TOKEN:
            what = f"{self.url} wants Ray's token: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to the file that has it."
            return Problem(ADDRESS, what, Exit.LOGIN_NEEDED), True
        if status == requests.codes.ok and "ray_version" in document:
            return None, True
        if status and status < _BROKEN:
            return Problem(ADDRESS, f"What answers at {self.url} is no Ray dashboard ({status})."), True
        return Problem(ADDRESS, f"Ray does not answer at {self.url}.", Exit.UNREACHABLE), False

    def _get(self, path: str) -> tuple[int, Mapping[str, object]]:
        token = self._token()

        def authorise(request: requests.PreparedRequest) -> requests.PreparedRequest:
            if token:
                request.headers["Authorization"] = f"Bearer {token}"
            return request

        try:
            with requests.get(
                f"{self.url}{path}",
                auth=authorise,  # without this, what ~/.netrc has would be sent
                proxies=NO_PROXY if urlsplit(self.url).hostname in LOOPBACK else None,
                timeout=_TIMEOUT_S,
                allow_redirects=False,
                stream=True,
            ) as answer:
                body = answer.raw.read(_LARGEST_ANSWER, decode_content=True)
                status = answer.status_code
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError):
            return 0, {}
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        return status, document if isinstance(document, Mapping) else {}

    def _token(self) -> str:
        """As Ray's own clients find it."""
        token = self._environment.get("RAY_AUTH_TOKEN", "").strip()
        if not token and (file := self._environment.get("RAY_AUTH_TOKEN_PATH", "").strip()):
            try:
                token = Path(file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError):
                return ""
        return token if token.isascii() and token.isprintable() and " " not in token else ""
