"""Notifications: what people are told of an event, in plain words, and of which events they are told at all.

Names, reasons and comments are anybody's words. They are shown without what a chat would make a link, a mention or
markup of: the only link is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from app.domain.events import CATALOGUE, EventType, is_alarm
from app.domain.grants import DEFAULT_WORKSPACE
from app.domain.legible import legible, listed

QUIET_EVENTS: tuple[EventType, ...] = (
    EventType.READY_FOR_DECISION,
    EventType.REMINDER,
    EventType.APPROVALS_VOID,
    EventType.WAITS_AGAIN,
    EventType.FAILED,
    EventType.ROLLED_BACK,
    EventType.ROLLOUT_PAUSED,
    EventType.ROLLOUT_WENT_BACK,
    EventType.GLASS_BROKEN,
    EventType.DRIFTED,
    EventType.NOT_RESTORED,
    EventType.BYTES_CHANGED,
    EventType.DEPLOYMENT_DRIFTED,
    EventType.ENDPOINT_DISABLED,
)
"""What people hear of unless they ask for other events: somebody must act, or something is wrong."""

LONGEST_VALUE = 300
LONGEST_TITLE = 150
MOST_ITEMS = 20


@dataclass(frozen=True, slots=True)
class Notification:
    """What a person reads. ``text`` is plain, with a line for each thing; ``link`` leads to the console."""

    title: str
    text: str
    link: str
    is_alarm: bool


_PROMOTED = "{model} {to_version} → @{alias}: "
_DEPLOYED = "{model} {version} on {target}: "

TITLES: Mapping[EventType, str] = {
    EventType.REQUESTED: _PROMOTED + "a promotion was asked for",
    EventType.READY_FOR_DECISION: _PROMOTED + "waits for a decision",
    EventType.DECIDED: _PROMOTED + "{by} said {outcome}",
    EventType.REMINDER: _PROMOTED + "still waits, and will expire",
    EventType.APPROVALS_VOID: _PROMOTED + "approvals do not count any more",
    EventType.APPROVED: _PROMOTED + "approved",
    EventType.WAITS_AGAIN: _PROMOTED + "waits again",
    EventType.APPLYING: _PROMOTED + "the alias is being moved",
    EventType.APPLIED: _PROMOTED + "the alias was moved",
    EventType.ROLLING_OUT: _PROMOTED + "is being rolled out",
    EventType.LIVE: _PROMOTED + "live",
    EventType.REJECTED: _PROMOTED + "rejected",
    EventType.WITHDRAWN: _PROMOTED + "withdrawn",
    EventType.EXPIRED: _PROMOTED + "expired",
    EventType.SUPERSEDED: _PROMOTED + "a newer promotion took its place",
    EventType.STALE: _PROMOTED + "not applied, as the world has changed",
    EventType.FAILED: _PROMOTED + "failed",
    EventType.ROLLED_BACK: _PROMOTED + "rolled back",
    EventType.COMMENTED: _PROMOTED + "a comment by {by}",
    EventType.ROLLOUT_STEP_BEGAN: _PROMOTED + "step {step} of {steps}, {weight} % of the requests",
    EventType.ROLLOUT_PAUSED: _PROMOTED + "the rollout waits for a person",
    EventType.ROLLOUT_RESUMED: _PROMOTED + "the rollout goes on",
    EventType.ROLLOUT_WENT_BACK: _PROMOTED + "its targets go back",
    EventType.ALIAS_MOVED: "{model}@{alias} moved from {from_version} to {version}",
    EventType.GLASS_BROKEN: _PROMOTED + "{by} broke the glass",
    EventType.REVIEW_CLOSED: _PROMOTED + "breaking the glass was reviewed",
    EventType.DRIFTED: "{model}@{alias} was moved past Countersign",
    EventType.NOT_RESTORED: "{model}@{alias} could not be put back",
    EventType.DRIFT_ENDED: "{model}@{alias} is as it should be again",
    EventType.CHECK_POSTED: "{model} {version}: check {check}: {outcome}",
    EventType.VERSION_REGISTERED: "{model} {version} was registered",
    EventType.BYTES_CHANGED: "{model} {version}: its bytes are not what was approved",
    EventType.BYTES_RESTORED: "{model} {version}: its bytes are what was approved again",
    EventType.DEPLOYMENT_DESIRED: _DEPLOYED + "wanted",
    EventType.DEPLOYMENT_ACCEPTED: _DEPLOYED + "accepted",
    EventType.DEPLOYMENT_PROGRESSING: _DEPLOYED + "at work",
    EventType.DEPLOYMENT_READY: _DEPLOYED + "ready",
    EventType.DEPLOYMENT_FAILED: _DEPLOYED + "failed",
    EventType.DEPLOYMENT_SUPERSEDED: _DEPLOYED + "superseded",
    EventType.DEPLOYMENT_DRIFTED: _DEPLOYED + "what is served is not as it should be",
    EventType.DEPLOYMENT_DRIFT_ENDED: _DEPLOYED + "what is served is as it should be again",
    EventType.POLICY_CHANGED: "Policy {policy} was {outcome}",
    EventType.ENDPOINT_DISABLED: "Endpoint {endpoint} is sent nothing any more",
    EventType.ENDPOINT_ENABLED: "Endpoint {endpoint} is sent events again",
    EventType.ENDPOINT_PINGED: "A test: endpoint {endpoint} hears",
}
"""Every kind of event, with members of its data."""

LABELS: Mapping[str, str] = {
    "message": "What",
    "reason": "Why",
    "why": "Why",
    "waits_for": "Still missing",
    "void": "What changed",
    "from_version": "Instead of version",
    "expected_version": "Should be version",
    "seen_version": "Is version",
    "aliases": "Holds",
    "comment": "Comment",
    "ticket": "Occasion",
    "requested_by": "Asked for by",
    "approved_by": "Approved by",
    "by": "By",
    "workspace": "Workspace",
}
"""Which members of an event's data a person is shown, in this order, and what they are called."""


def notification_of(message: Mapping[str, object], *, public_url: str) -> Notification:
    """What people are told of a CloudEvent as we send it; also of one of a kind that is not known yet.

    Args:
        message: as ``app.domain.events.cloud_event`` makes it.
        public_url: where the console is, without a slash at its end.
    """
    given = message.get("data")
    data: Mapping[str, object] = given if isinstance(given, Mapping) else {}
    kind = _kind_of(str(message.get("type", "")))
    title = TITLES[kind].format_map(_Words(data)) if kind else "Something happened"
    lines = [CATALOGUE[kind].meaning] if kind else [f"Kind: {_plain(message.get('type', ''))}"]
    lines += [f"{label}: {_plain(data[name])}" for name, label in LABELS.items() if _says_something(name, data)]
    link = f"{public_url}/console{_page_of(data)}"
    return Notification(title[:LONGEST_TITLE], "\n".join(lines), link, kind is not None and is_alarm(kind))


def _page_of(data: Mapping[str, object]) -> str:
    if promotion := data.get("promotion"):
        # Quoted, though ids are ours: an address of people is made of nothing else.
        return f"/promotions/{quote(str(promotion), safe='')}"
    return "/endpoints" if data.get("endpoint") else ""


class _Words(dict[str, str]):
    """The words of a title. What is not there is a question mark: a message without a word is better than none."""

    def __init__(self, data: Mapping[str, object]) -> None:
        super().__init__({name: _plain(value) for name, value in data.items() if value is not None})

    def __missing__(self, key: str) -> str:
        return "none" if key.endswith("version") else "?"


def _kind_of(name: str) -> EventType | None:
    bare = name.removeprefix("countersign.").rpartition(".v")[0]
    return EventType(bare) if bare in set(EventType) else None


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return listed([_plain(each) for each in value[:MOST_ITEMS]])
    text = " ".join(legible(str(value)).split())[:LONGEST_VALUE]
    return text.replace("://", ": //").replace("www.", "www .").translate(_INERT)


_INERT = str.maketrans("<>[]", "()()")
"""Links and mentions are written with these, in Slack, Teams and e-mail."""


def _says_something(name: str, data: Mapping[str, object]) -> bool:
    value = data.get(name)
    if name == "workspace":
        return bool(value) and value != DEFAULT_WORKSPACE
    if name == "by":
        return bool(value) and value != data.get("requested_by")
    return bool(value) or value == 0
