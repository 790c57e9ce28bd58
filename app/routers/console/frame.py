"""What every page of the console has: the bar with the way to the others, and the words for what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from fastapi.responses import HTMLResponse, RedirectResponse

from app.domain.access import Permission, Principal, holds_somewhere, may
from app.domain.durations import write_duration
from app.domain.errors import InvalidInput
from app.domain.identity import CredentialKind
from app.domain.inventory import desired_in_words, shares_in_words
from app.routers.console.wording import (
    CAUSES,
    DEEDS,
    DELIVERY_STATES,
    DRIFTS,
    GATE_VERDICTS,
    GATES,
    HAPPENINGS,
    HEALTHS,
    KINDS,
    PHASES,
    RECEIVER_STATES,
    RULES,
    STAGES,
    STANDINGS,
    STATES,
    STEP_NOT_REACHED,
    STEP_OUTCOMES,
)
from app.routers.pages import page
from app.routers.services import Services
from app.services.promotions import waits_for_in_short

LONGEST_REASON = 2000
"""Characters, as in the API."""

_WORDS: Mapping[str, object] = {
    "states": STATES,
    "kinds": KINDS,
    "standings": STANDINGS,
    "gates": GATES,
    "rule_titles": RULES,
    "phases": PHASES,
    "drifts": DRIFTS,
    "healths": HEALTHS,
    "stages": STAGES,
    "step_outcomes": STEP_OUTCOMES,
    "step_not_reached": STEP_NOT_REACHED,
    "gate_verdicts": GATE_VERDICTS,
    "duration": write_duration,
    "receiver_states": RECEIVER_STATES,
    "delivery_states": DELIVERY_STATES,
    "deeds": DEEDS,
    "happenings": HAPPENINGS,
    "causes": CAUSES,
    "waits_for": waits_for_in_short,
    "shares_of": shares_in_words,
    "desired_of": desired_in_words,
    "longest_reason": LONGEST_REASON,
}


def shown(
    template: str,
    principal: Principal,
    services: Services,
    *,
    title: str,
    here: str = "",
    status: int = 200,
    **values: Any,  # noqa: ANN401  # a template's
) -> HTMLResponse:
    """A page of the console. ``here`` is which of the places in its bar it belongs to."""
    return page(
        f"console/{template}",
        public_url=services.public_url,
        status=status,
        title=title,
        here=here,
        me=principal,
        reads_deployments=holds_somewhere(principal, Permission.DEPLOYMENTS_READ),
        reads_endpoints=may(principal, Permission.ENDPOINTS_READ),
        has_session=principal.credential.kind is CredentialKind.SESSION,
        **_WORDS,
        **values,
    )


def lead_to(*segments: str, at: str = "") -> RedirectResponse:
    """To a page of the console, after a form: going back or loading it anew sends nothing twice."""
    path = "/".join(quote(segment, safe="") for segment in segments) + (f"#{at}" if at else "")
    return RedirectResponse(f"/console/{path}", 303, headers={"Cache-Control": "no-store"})


def text_of(form: Mapping[str, str], name: str) -> str:
    """What somebody wrote. Browsers send line ends as CRLF, and count them as one character.

    Raises:
        InvalidInput: it is too long, or no text.
    """
    text = form.get(name, "").replace("\r\n", "\n").strip()
    if len(text) > LONGEST_REASON:
        raise InvalidInput(name, f"expected at most {LONGEST_REASON} characters")
    if "\0" in text:
        raise InvalidInput(name, "expected a text")
    return text


def reason_of(form: Mapping[str, str]) -> str:
    """The reason that somebody wrote. Raises ``InvalidInput``, as ``text_of``."""
    return text_of(form, "reason")


def revision_of(form: Mapping[str, str]) -> int:
    """The revision that the page showed; -1, which nothing has, if the form does not say."""
    number = form.get("revision", "")
    return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else -1
