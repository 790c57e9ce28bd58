"""The catalogue: what each kind of event means, and the JSON Schema (2020-12) of what it says.

A schema only ever grows: members are added, none is taken away, renamed or given another meaning, and whoever reads an
event ignores those it does not know. So a published schema allows further members; our tests do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.domain.deployments import Action, Drift
from app.domain.drifts import DriftEnd
from app.domain.events.happened import EventType
from app.domain.policies import OnDrift
from app.domain.promotions import Kind, Outcome, State

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class EventKind:
    """A row of the catalogue. ``subject`` says what the event's subject is; ``data`` the schema of each member."""

    meaning: str
    subject: str
    data: Mapping[str, Schema]
    is_alarm: bool = False
    """Whether a person should look at once."""


def schema_of(kind: EventType, *, address: str | None = None, is_open: bool = True) -> dict[str, object]:
    """The JSON Schema of an event's ``data``.

    Args:
        kind: of which event.
        address: where the schema can be had; none: it does not say.
        is_open: whether there may be members that it does not know, as for whoever reads events.
    """
    row = CATALOGUE[kind]
    members = dict(row.data)
    if "promotion" in members:
        members["console"] = _CONSOLE
    return {
        "$schema": DIALECT,
        **({"$id": address} if address else {}),
        "title": kind.value,
        "description": row.meaning,
        "type": "object",
        "properties": members,
        "required": sorted(row.data),
        **({} if is_open else {"additionalProperties": False}),
    }


def schema_address(source: str, kind: EventType) -> str:
    """Where the schema of a type can be had. ``source``: our public URL, without a slash at its end."""
    return f"{source}/control/v1/events/schemas/{kind.value}"


def is_alarm(kind: EventType) -> bool:
    return CATALOGUE[kind].is_alarm


def _text(
    meaning: str, *, among: type[Kind | State | Outcome] | tuple[str, ...] = (), may_lack: bool = False
) -> Schema:
    """A text; ``among``: one of these; ``may_lack``: or null."""
    choices: list[str | None] = [str(each) for each in among]
    if choices and may_lack:
        choices.append(None)
    return {
        "description": meaning,
        "type": ["string", "null"] if may_lack else "string",
        **({"enum": choices} if choices else {}),
    }


def _texts(meaning: str) -> Schema:
    return {"description": meaning, "type": "array", "items": {"type": "string"}}


def _number(meaning: str) -> Schema:
    return {"description": meaning, "type": "integer", "minimum": 0}


def _time(meaning: str, *, may_lack: bool = False) -> Schema:
    return {**_text(meaning, may_lack=may_lack), "format": "date-time"}


_CONSOLE: Schema = {"description": "Where people see the promotion.", "type": "string", "format": "uri"}

_OF_MODEL = {
    "workspace": _text("MLflow's workspace of the model."),
    "model": _text("The registered model."),
}
_OF_ALIAS = {**_OF_MODEL, "alias": _text("The alias.")}
_BYTES = {
    "uri": _text("Where the version's bytes are, physically; it ends in a slash."),
    "digest": _text("The tree digest of the bytes, `sha256:…`; null while they are still being read.", may_lack=True),
    "run_id": _text("The run that the version comes from.", may_lack=True),
}
_BY = _text("Who did it; `worker`: it happened by itself.")
_COMMENT = _text("What they said.")

_PROMOTION = {
    **_OF_ALIAS,
    "promotion": _text("The promotion's id."),
    "kind": _text("In which lane of the policy it is.", among=Kind),
    "state": _text("The state it is in now.", among=State),
    "reason": _text("Why it is in this state.", may_lack=True),
    "from_version": _text("The version that held the alias when it was asked for; null: none.", may_lack=True),
    "to_version": _text("The version that is to hold the alias."),
    **_BYTES,
    "policy": {
        "description": "The policy under which it was made.",
        "type": "object",
        "properties": {"name": {"type": "string"}, "revision": {"type": "integer"}},
        "required": ["name", "revision"],
    },
    "requested_by": _text("Who asked for it."),
    "approved_by": _texts("Who has approved it, approvals that became void left out."),
    "rolls_back": _text("The promotion that this one undoes.", may_lack=True),
    "by": _BY,
}

_DRIFT = {
    **_OF_ALIAS,
    "drift": _text("The drift's id."),
    "expected_version": _text("The version that should hold the alias; null: none.", may_lack=True),
    "seen_version": _text("The version that MLflow shows; null: none.", may_lack=True),
    "message": _text("A sentence for a person."),
    "promotion": _text("By which the expected version holds it.", may_lack=True),
}

_VERSION = {**_OF_MODEL, "version": _text("The version.")}

_VERIFIED = {
    **_VERSION,
    "aliases": _texts("The protected aliases that it holds."),
    "uri": _text("Where the bytes are looked for."),
    "digest": _text("What was approved: the tree digest of the bytes."),
    "promotion": _text("The promotion by which that was approved."),
}

_DEPLOYMENT = {
    **_VERSION,
    "deployment": _text("The deployment's id: of this model on this target."),
    "target": _text("The target."),
    "generation": _number("Counts up whenever the target is to run something else."),
    "action": _text("Whether it is to serve the model, or to take it away.", among=tuple(Action)),
    "promotion": _text("The promotion that wants it."),
    "uri": _text("Where the version's bytes are, physically."),
    "digest": _text("The tree digest of the bytes."),
    "reason": _text("Of what the deployer reported, in one word.", may_lack=True),
    "message": _text("What the deployer said, at most 500 characters.", may_lack=True),
    "by": _text("The target, who reports for it, or `worker`."),
}

_DEPLOYMENT_DRIFT = {
    **_DEPLOYMENT,
    "drift": _text("How it differs.", among=tuple(Drift)),
    "drifted_since": _time("Since when it is so."),
    "drift_message": _text("A sentence for a person."),
    "serving": _text("What the target says that it serves, for a person to read."),
    "desired": _text("What it is to serve, for a person to read."),
    "by": _BY,
}

_ENDPOINT = {
    "endpoint": _text("The endpoint's name."),
    "reason": _text("Why.", may_lack=True),
    "by": _BY,
}


def _promotion(meaning: str, *, is_alarm: bool = False, **more: Schema) -> EventKind:
    return EventKind(meaning, "the promotion's id", {**_PROMOTION, **more}, is_alarm)


def _deployment(meaning: str, *, is_alarm: bool = False) -> EventKind:
    return EventKind(meaning, "the deployment's id", _DEPLOYMENT, is_alarm)


def _rollout(meaning: str, *, is_alarm: bool = False) -> EventKind:
    return EventKind(meaning, "the promotion's id", {**_PROMOTION, **_ROLLOUT}, is_alarm)


_ROLLOUT = {
    "step": _number("The step that it is in, counted from 1."),
    "steps": _number("How many there are."),
    "weight": _number("The percentage of the requests that the version gets in this step."),
    "why": _text("Why, for a person to read; empty: because the plan says so."),
    "message": _text("What is to be said of the step itself; mostly empty."),
}

_REPLACED_BY = _text("The promotion that took its place.", may_lack=True)

CATALOGUE: Mapping[EventType, EventKind] = {
    EventType.REQUESTED: _promotion("Somebody asked that a version become the holder of an alias.", comment=_COMMENT),
    EventType.READY_FOR_DECISION: _promotion(
        "A promotion waits for approvers, who can decide on it from now on.",
        waits_for=_text("What is missing, for a person to read."),
    ),
    EventType.DECIDED: _promotion(
        "An approver approved or rejected a promotion; it may wait for others.",
        outcome=_text("What they said.", among=Outcome),
        comment=_COMMENT,
        on_behalf_of=_text("For whom they stood in.", may_lack=True),
        missing=_number("How many approvals are still missing."),
        waits_for=_text("What is still missing, for a person to read; `nothing`: nothing."),
    ),
    EventType.REMINDER: _promotion(
        "A promotion will expire and still waits for somebody.",
        waits_for=_text("What is missing, for a person to read."),
    ),
    EventType.APPROVALS_VOID: _promotion(
        "What the approvers had seen has changed: their approvals do not count any more.", void=_text("What changed.")
    ),
    EventType.APPROVED: _promotion("Everything that the policy asks for before approval is there."),
    EventType.WAITS_AGAIN: _promotion("A promotion was approved, and does not have what it needs any more."),
    EventType.APPLYING: _promotion("The alias is being moved; it may have moved already."),
    EventType.APPLIED: _promotion("The alias was moved and read back."),
    EventType.ROLLING_OUT: _promotion(
        "The targets were called; the alias was moved before, or moves when they are ready, as the policy says.",
        targets=_texts("Which."),
    ),
    EventType.LIVE: _promotion("Every target gives the version all requests, and every step has proved itself."),
    EventType.REJECTED: _promotion("Approvers said no: the promotion is closed."),
    EventType.WITHDRAWN: _promotion("Whoever asked for the promotion took it back.", comment=_COMMENT),
    EventType.EXPIRED: _promotion("Nobody settled the promotion in time."),
    EventType.SUPERSEDED: _promotion("A newer promotion of the alias took this one's place.", replaced_by=_REPLACED_BY),
    EventType.STALE: _promotion("The world is not what was approved, so that the promotion was not applied."),
    EventType.FAILED: _promotion(
        "A promotion could not be finished and not be undone, or a target failed: a person must look.", is_alarm=True
    ),
    EventType.ROLLED_BACK: _promotion(
        "A rollback undid this promotion, or it went back by itself during its rollout.", replaced_by=_REPLACED_BY
    ),
    EventType.COMMENTED: _promotion("Somebody wrote a comment.", comment=_COMMENT),
    EventType.ROLLOUT_STEP_BEGAN: _rollout(
        "The targets were called to give the version another share of the requests; of a rollout of several steps."
    ),
    EventType.ROLLOUT_PAUSED: _rollout(
        "A rollout waits for a person: somebody stopped it, or a step failed and the policy says `pause`.",
        is_alarm=True,
    ),
    EventType.ROLLOUT_RESUMED: _rollout("A person had a rollout go on, or had the version get all requests at once."),
    EventType.ROLLOUT_WENT_BACK: _rollout(
        "The targets were called to serve what they served before: a step failed, or a person said so.", is_alarm=True
    ),
    EventType.ALIAS_MOVED: EventKind(
        "Another version holds a governed alias, or none does: by a promotion of any kind, together with another "
        "alias, or because Countersign took it away from who should not hold it.",
        "the alias, as `iris@production` (`team-a/iris@production` in another workspace than the default one)",
        {
            **_OF_ALIAS,
            "from_version": _text("The version that held it before; null: none.", may_lack=True),
            "version": _text("The version that holds it now; null: none.", may_lack=True),
            "cause": _text("What moved it.", among=("promotion", "companion", "restored")),
            "kind": _text("Of the promotion that moved it.", among=Kind, may_lack=True),
            "promotion": _text("The promotion that moved it.", may_lack=True),
            **{name: {**schema, "type": ["string", "null"]} for name, schema in _BYTES.items()},
            "by": _BY,
        },
    ),
    EventType.GLASS_BROKEN: _promotion(
        "Somebody moves an alias without the policy's rules.",
        is_alarm=True,
        comment=_COMMENT,
        ticket=_text("What they named as the occasion.", may_lack=True),
        authenticated_at=_time("When they proved who they are.", may_lack=True),
        acr=_text("How, as their provider says it.", may_lack=True),
    ),
    EventType.REVIEW_CLOSED: _promotion(
        "Somebody else has looked at what was moved by breaking the glass.", comment=_COMMENT
    ),
    EventType.DRIFTED: EventKind(
        "Somebody moved a protected alias past Countersign.",
        "the drift's id",
        {
            **_DRIFT,
            "policy": _text("The policy that protects the alias."),
            "on_drift": _text("What the policy says then.", among=tuple(OnDrift)),
        },
        is_alarm=True,
    ),
    EventType.NOT_RESTORED: EventKind(
        "A drifted alias could not be put back; it is tried again.",
        "the drift's id",
        {**_DRIFT, "reason": _text("Why not.")},
        is_alarm=True,
    ),
    EventType.DRIFT_ENDED: EventKind(
        "A drifted alias is held by who should hold it again, or may be held by anybody.",
        "the drift's id",
        {
            **_DRIFT,
            "how": _text("How it ended.", among=tuple(DriftEnd)),
            "ended_by": _text("The promotion that ended it.", may_lack=True),
        },
    ),
    EventType.CHECK_POSTED: EventKind(
        "A pipeline posted the verdict of a check on a version.",
        "the posted check's id",
        {
            **_VERSION,
            "check": _text("The check's name."),
            "outcome": _text("The verdict.", among=("pass", "fail", "running")),
            "message": _text("What was said with it."),
            "link": _text("Where there is more of it.", may_lack=True),
            "digest": _text("The bytes that were looked at.", may_lack=True),
            "promotion": _text("The promotion it was posted for.", may_lack=True),
            "expires_at": _time("Until when it counts.", may_lack=True),
            "by": _BY,
        },
    ),
    EventType.VERSION_REGISTERED: EventKind(
        "A version of a model was registered, through the gateway or past it; prompts are left out.",
        "the version, as `iris/7` (`team-a/iris/7` in another workspace than the default one)",
        {
            **_VERSION,
            "source": _text("Where it was registered from, as MLflow has it; without credentials."),
            "run_id": _text("The run that it comes from.", may_lack=True),
            "registered_at": _time("When, by MLflow's clock."),
            "by": _text("Who registered it; null: it was registered past the gateway.", may_lack=True),
        },
    ),
    EventType.BYTES_CHANGED: EventKind(
        "The bytes of a promoted version are not what was approved any more, or are gone: it is not resolved.",
        "the version, as `iris/7`",
        {
            **_VERIFIED,
            "state": _text("What became of them.", among=("changed", "gone")),
            "message": _text("A sentence for a person."),
        },
        is_alarm=True,
    ),
    EventType.BYTES_RESTORED: EventKind(
        "The bytes of a promoted version are what was approved again: it is resolved.",
        "the version, as `iris/7`",
        _VERIFIED,
    ),
    EventType.DEPLOYMENT_DESIRED: _deployment("A target is to run another version: it is called."),
    EventType.DEPLOYMENT_ACCEPTED: _deployment("A deployer took the call."),
    EventType.DEPLOYMENT_PROGRESSING: _deployment("A deployer says that it is at work."),
    EventType.DEPLOYMENT_READY: _deployment("A target runs the version."),
    EventType.DEPLOYMENT_FAILED: _deployment(
        "A target will not run the version: its deployer says so, refused the call, or said nothing in time.",
        is_alarm=True,
    ),
    EventType.DEPLOYMENT_SUPERSEDED: _deployment("A target was to run something else before this was settled."),
    EventType.DEPLOYMENT_DRIFTED: EventKind(
        "What a target serves is not what it is to serve, or not what is approved, or is not well, or it is not heard "
        "of; also when a drift becomes one of another kind.",
        "the deployment's id",
        _DEPLOYMENT_DRIFT,
        is_alarm=True,
    ),
    EventType.DEPLOYMENT_DRIFT_ENDED: EventKind(
        "A target serves what it is to serve again, or is being changed; `drift` is what it was.",
        "the deployment's id",
        _DEPLOYMENT_DRIFT,
    ),
    EventType.POLICY_CHANGED: EventKind(
        "A policy was written, revised or retired.",
        "the policy's name",
        {
            "policy": _text("The policy's name."),
            "revision": _number("The revision that is the newest now."),
            "outcome": _text("What became of it.", among=("created", "revised", "retired")),
            "by": _BY,
        },
    ),
    EventType.ENDPOINT_DISABLED: EventKind(
        "An endpoint or target is sent nothing any more: somebody disabled it, or it was away or refused for too long.",
        "the endpoint's name",
        _ENDPOINT,
        is_alarm=True,
    ),
    EventType.ENDPOINT_ENABLED: EventKind("An endpoint is sent events again.", "the endpoint's name", _ENDPOINT),
    EventType.ENDPOINT_PINGED: EventKind(
        "Somebody tries whether an endpoint hears; sent to that endpoint alone.", "the endpoint's name", _ENDPOINT
    ),
}
"""Every kind of event."""
