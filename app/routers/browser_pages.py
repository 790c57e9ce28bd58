"""What a person in a browser is answered where a program is answered JSON: the sign-in page, or one of an error.

API callers never get a redirect, browsers never a dead end. Nor does who has MLflow's page open when the session ends:
MLflow loads the scripts of its pages when they are looked at, and would say "Something went wrong" to a 401.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from app.domain.browsers import is_navigation, is_script_of_our_page
from app.domain.errors import CountersignError, NotAuthenticated
from app.domain.sessions import StepUp
from app.ports import Page
from app.routers.pages import page_of

SIGN_IN = "/auth/sign-in"
LONGEST_NEXT = 2048
_RELOAD = Page(
    200,  # the script of another status is not run
    ((b"content-type", b"text/javascript"), (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")),
    b"location.reload();\n",
)
"""In place of a script for which somebody must sign in: the page is asked for anew, which leads to the sign-in page."""


class PagesForBrowsers:
    """See ``app.ports.BrowserPages``."""

    def __init__(self, public_url: str) -> None:
        self._public_url = public_url

    def instead_of(self, error: CountersignError, scope: Mapping[str, Any]) -> Page | None:
        if _has_credential(scope["headers"]):
            return None
        if isinstance(error, NotAuthenticated) and is_script_of_our_page(scope["headers"]):
            return _RELOAD
        if not is_navigation(scope["headers"]):
            return None
        if isinstance(error, NotAuthenticated):
            return Page(
                303, ((b"location", sign_in_address(scope).encode("ascii")), (b"cache-control", b"no-store")), b""
            )
        answer = page_of(error, public_url=self._public_url)
        headers = tuple(pair for pair in answer.raw_headers if pair[0] != b"content-length")
        return Page(answer.status_code, headers, bytes(answer.body))


def step_up_address(step_up: StepUp) -> str:
    """The sign-in page at which somebody who is signed in proves anew who they are."""
    return f"{SIGN_IN}?{urlencode(step_up_query(step_up))}"


def step_up_query(step_up: StepUp) -> dict[str, str]:
    return {"max_age": str(step_up.max_age_s), **({"acr_values": step_up.acr_values} if step_up.acr else {})}


def _has_credential(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """No browser sends one of its own accord, and programs that do may ask for HTML by default, as Java's."""
    return any(name == b"authorization" for name, _ in headers)


def sign_in_address(scope: Mapping[str, Any]) -> str:
    """The sign-in page, from which a person comes back to what this request asked for; a form is not sent again."""
    if scope["method"] not in {"GET", "HEAD"}:
        return SIGN_IN
    target: bytes = scope["raw_path"]
    if query := scope["query_string"]:
        target += b"?" + query
    shown = target.decode("ascii", "ignore")
    return (
        f"{SIGN_IN}?next={quote(shown, safe='')}" if shown not in {"", "/"} and len(shown) <= LONGEST_NEXT else SIGN_IN
    )
