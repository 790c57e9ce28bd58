"""Renders the pages that people see: templates and files of ``app/console``, and the headers that go with them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from app.domain.errors import CountersignError, SignInFailed, Unavailable
from app.domain.legible import legible, written_size
from app.domain.problems import problem_of
from app.telemetry import REQUEST_ID

_CONSOLE = Path(__file__).parent.parent / "console"
ASSETS = "/auth/assets"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_POLICY = {
    "default-src": "'none'",
    "style-src": "'self'",
    "script-src": "'self'",
    "img-src": "'self' data:",  # Pico's icons are data: addresses in its CSS
    "connect-src": "'self'",
    # Providers are reached by links, never by forms: browsers hold a form to this through every redirect after it.
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
_HEADERS = {
    "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in _POLICY.items()),
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Not `no-referrer`, with which forms say `Origin: null` (Fetch section 3.2).
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_HSTS = {"Strict-Transport-Security": "max-age=63072000"}
YEAR_S = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that pages load. ``version`` changes with the content, so that browsers may keep it for good."""

    content: bytes
    media_type: str
    version: str


def _read_assets() -> dict[str, Asset]:
    assets = {}
    for path in sorted((_CONSOLE / "static").iterdir()):
        if media_type := _TYPES.get(path.suffix):
            content = path.read_bytes()
            assets[path.name] = Asset(content, media_type, hashlib.sha256(content).hexdigest()[:16])
    return assets


_ASSETS = _read_assets()
"""All of them, read once: what is asked for is looked up here and never on the disk."""


def asset_address(name: str) -> str:
    """The path of a file that pages load; another one when its content changes."""
    return f"{ASSETS}/{name}?v={_ASSETS[name].version}"


def _moment(at: datetime) -> str:
    shown = at.astimezone(UTC)
    return f"{shown.day} {shown:%B %Y, %H:%M} UTC"


_templates = Environment(
    loader=FileSystemLoader(_CONSOLE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals["asset"] = asset_address
_templates.filters["moment"] = _moment
_templates.filters["bytes"] = written_size
_templates.filters["segment"] = lambda name: quote(str(name), safe="")


def _legible(value: object) -> object:
    return legible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


_console_templates = _templates.overlay(finalize=_legible)
"""For pages that show what anybody has named or written. Not for forms that send a text of others back."""


@dataclass(frozen=True, slots=True)
class Action:
    """What a person can do next. ``href`` is a path of ours."""

    label: str
    href: str


HOME = Action("Go to MLflow", "/")
ACCOUNT = Action("Your account", "/auth/account")
"""Whoever may not do something sees there who they are taken for, and may sign out to be somebody else."""
START_AGAIN = Action("Sign in", "/auth/sign-in")


def page(template: str, *, public_url: str, status: int = 200, **values: Any) -> HTMLResponse:  # noqa: ANN401  # a template's
    """A page of ours. Nothing in it may be framed, kept, or run that is not from here."""
    headers = _HEADERS | (_HSTS if urlsplit(public_url).scheme == "https" else {})
    templates = _console_templates if template.startswith("console/") else _templates
    return HTMLResponse(templates.get_template(template).render(**values), status_code=status, headers=headers)


def error_page(
    status: int, title: str, detail: str, *, public_url: str, actions: Sequence[Action] = (HOME,)
) -> HTMLResponse:
    """A page that says what is wrong, and what to do next."""
    return page(
        "error.html",
        public_url=public_url,
        status=status,
        title=title,
        detail=detail,
        actions=actions,
        reference=REQUEST_ID.get(),
    )


def page_of(error: CountersignError, *, public_url: str) -> HTMLResponse:
    """The page of a refusal or failure."""
    row = problem_of(error)
    actions: tuple[Action, ...] = (HOME,)
    if isinstance(error, SignInFailed) or row.status == 401:
        actions = (START_AGAIN,)
    elif row.status == 403:
        actions = (ACCOUNT, HOME)
    answer = error_page(row.status, row.title, error.message, public_url=public_url, actions=actions)
    if isinstance(error, Unavailable):
        answer.headers["Retry-After"] = str(error.retry_after_s)
    return answer


def asset_response(name: str) -> Response | None:
    """A file that pages load; none if there is no such file."""
    asset = _ASSETS.get(name)
    if asset is None:
        return None
    return Response(
        asset.content,
        media_type=asset.media_type,
        headers={
            "Cache-Control": f"public, max-age={YEAR_S}, immutable",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "X-Content-Type-Options": "nosniff",
        },
    )


_BROWSERS = (
    ("Edg", "Edge"),
    ("OPR", "Opera"),
    ("Firefox", "Firefox"),
    ("CriOS", "Chrome"),
    ("FxiOS", "Firefox"),
    ("Chrome", "Chrome"),
    ("Safari", "Safari"),
)
_SYSTEMS = (
    ("Windows", "Windows"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Android", "Android"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def browser_name(user_agent: str) -> str:
    """What a person calls the browser that says this of itself: good for telling one's own apart, and nothing else."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "A browser")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    return f"{browser} on {system}" if system else browser
