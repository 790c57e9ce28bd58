"""The ``kind: Policy`` document that people write, and that the database keeps.

What is left out has the default of ``Policy``. What is kept says everything, so that a revision means the same for
ever, whatever becomes the default later. Here is how a document is read; whether what it says makes sense is asked when
it is applied (``satisfying.py``): a revision that was kept is always read.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.access import Role
from app.domain.documents import MOST, Fields, each_of, one_of, read_text, read_truth
from app.domain.durations import parse_duration, write_duration
from app.domain.errors import InvalidInput
from app.domain.names import check_alias
from app.domain.policies.approvals import ApprovalRule
from app.domain.policies.policy import (
    BreakGlass,
    Check,
    CheckKind,
    Companions,
    Expiry,
    OnDrift,
    Policy,
    ReasonFor,
    Rejection,
    Soak,
    Supersede,
)
from app.domain.policies.rollout_documents import rollout_document, rollout_from_document
from app.domain.rollouts import AliasMoves
from app.domain.signatures import signed_by_document, signed_by_from_document
from app.domain.windows import window_document, window_from_document

_DEFAULT = Policy("", 0, "", "", ())
_FIELDS = (
    *("name", "models", "alias", "workspaces", "tags"),
    *("approvals", "autoApprove", "rejection", "reasons", "expiry"),
    *("after", "soak", "windows", "checks"),
    *("supersede", "drift", "companions", "breakGlass", "rollback"),
    *("targets", "aliasMoves", "rollout"),
)
_RULE_FIELDS = ("name", "count", "roles", "groups", "people", "services")
_CHECK_FIELDS = ("name", "expression", "posted", "signature", "message", "required")


def policy_from_document(document: Mapping[str, object], *, revision: int) -> Policy:
    """Read a ``kind: Policy`` document.

    Raises:
        InvalidInput: with the path of each wrong field and what was expected.
    """
    fields = Fields("", {name: value for name, value in document.items() if name != "kind"}, _FIELDS)
    auto_approve = fields.get("autoApprove", read_truth, default=False)
    if not document.get("approvals") and not auto_approve:
        fields.refuse("approvals", "expected at least one rule; or `autoApprove: true`, if nobody need approve")
    if document.get("approvals") and auto_approve:
        fields.refuse("autoApprove", "expected only where there are no approvals: nothing waits for them otherwise")
    policy = Policy(
        name=fields.needed("name", read_text, ""),
        revision=revision,
        models=fields.needed("models", read_text, ""),
        alias=fields.needed("alias", read_text, ""),
        approvals=fields.get("approvals", _rules, ()),
        workspaces=fields.get("workspaces", read_text, _DEFAULT.workspaces),
        tags=fields.get("tags", _tags, ()),
        auto_approve=auto_approve,
        rejection=fields.get("rejection", one_of(Rejection), _DEFAULT.rejection),
        reasons=fields.get("reasons", _reasons, _DEFAULT.reasons),
        expiry=fields.get("expiry", _expiry, _DEFAULT.expiry),
        after=fields.get("after", _aliases, ()),
        soak=fields.get("soak", _soak, None),
        windows=fields.get("windows", each_of(window_from_document), ()),
        checks=fields.get("checks", each_of(_check), ()),
        supersede=fields.get("supersede", one_of(Supersede), _DEFAULT.supersede),
        on_drift=fields.get("drift", one_of(OnDrift), _DEFAULT.on_drift),
        companions=fields.get("companions", _companions, _DEFAULT.companions),
        # Where nobody approves, nobody would review what was done in an emergency: it has to be said who does.
        break_glass=fields.get("breakGlass", _break_glass, BreakGlass(is_allowed=not auto_approve)),
        rollback_approvals=fields.get("rollback", _rollback, ()),
        targets=fields.get("targets", _names, ()),
        alias_moves=fields.get("aliasMoves", one_of(AliasMoves), _DEFAULT.alias_moves),
        rollout=fields.get("rollout", rollout_from_document, _DEFAULT.rollout),
    )
    fields.check()
    return policy


def document_of(policy: Policy) -> dict[str, object]:
    """The document that ``policy_from_document`` reads back to the same policy. It says everything."""
    return {
        "kind": "Policy",
        "name": policy.name,
        "models": policy.models,
        "alias": policy.alias,
        "workspaces": policy.workspaces,
        "tags": dict(policy.tags),
        "approvals": [_rule_document(rule) for rule in policy.approvals],
        "autoApprove": policy.auto_approve,
        "rejection": policy.rejection.value,
        "reasons": sorted(reason.value for reason in policy.reasons),
        "expiry": {
            "after": write_duration(policy.expiry.after_s),
            "reminders": [write_duration(seconds) for seconds in policy.expiry.reminders_s],
        },
        "after": list(policy.after),
        **({"soak": {"alias": policy.soak.alias, "for": write_duration(policy.soak.for_s)}} if policy.soak else {}),
        "windows": [window_document(window) for window in policy.windows],
        "checks": [_check_document(check) for check in policy.checks],
        "supersede": policy.supersede.value,
        "drift": policy.on_drift.value,
        "companions": {
            **({"previous": policy.companions.previous} if policy.companions.previous is not None else {}),
            "promoted": dict(policy.companions.promoted),
            "archived": dict(policy.companions.archived),
        },
        "breakGlass": {
            "allowed": policy.break_glass.is_allowed,
            "freshWithin": write_duration(policy.break_glass.fresh_within_s),
            "acr": sorted(policy.break_glass.acr),
            "review": [_rule_document(rule) for rule in policy.break_glass.review],
        },
        "rollback": {"approvals": [_rule_document(rule) for rule in policy.rollback_approvals]},
        "targets": list(policy.targets),
        "aliasMoves": policy.alias_moves.value,
        "rollout": rollout_document(policy.rollout),
    }


def short_document_of(policy: Policy) -> dict[str, object]:
    """As ``document_of``, without what is as it would be if nothing were said: for people who compare."""
    document, default = document_of(policy), _SHORTENED | {"breakGlass": _default_break_glass(policy)}
    return {name: value for name, value in document.items() if name not in default or value != default[name]}


def _default_break_glass(policy: Policy) -> object:
    is_allowed = not policy.auto_approve
    return document_of(Policy("", 0, "", "", (), break_glass=BreakGlass(is_allowed=is_allowed)))["breakGlass"]


def _rule(where: str, value: object) -> ApprovalRule:
    fields = Fields(where, value, _RULE_FIELDS)
    rule = ApprovalRule(
        name=fields.needed("name", read_text, ""),
        count=fields.get("count", _count, 1),
        services=fields.get("services", read_truth, default=False),
        **_who(fields),
    )
    fields.check()
    if not rule.who:
        raise InvalidInput(where, "names nobody: expected at least one of roles, groups and people")
    return rule


def _who(fields: Fields) -> dict[str, frozenset[str]]:
    return {
        "roles": frozenset(fields.get("roles", _roles, ())),
        "groups": frozenset(fields.get("groups", _names, ())),
        "people": frozenset(fields.get("people", _names, ())),
    }


def _rule_document(rule: ApprovalRule) -> dict[str, object]:
    return {"name": rule.name, "count": rule.count, **_who_document(rule), "services": rule.services}


def _who_document(rule: ApprovalRule) -> dict[str, object]:
    return {"roles": sorted(rule.roles), "groups": sorted(rule.groups), "people": sorted(rule.people)}


def _check(where: str, value: object) -> Check:
    fields = Fields(where, value, _CHECK_FIELDS)
    kinds = [kind for kind in CheckKind if kind.value in fields]
    if len(kinds) != 1:
        raise InvalidInput(where, f"expected exactly one of {', '.join(CheckKind)}")
    [kind] = kinds
    name = fields.needed("name", read_text, "")
    valid_for_s, by = fields.get("posted", lambda at, given: _posted(at, given, name), (None, None))
    check = Check(
        name=name,
        kind=kind,
        is_required=fields.get("required", read_truth, default=True),
        expression=fields.get("expression", read_text, ""),
        message=fields.get("message", read_text, ""),
        valid_for_s=valid_for_s,
        by=by,
        signed_by=fields.get("signature", signed_by_from_document, None),
    )
    fields.check()
    return check


def _posted(where: str, value: object, name: str) -> tuple[int | None, ApprovalRule | None]:
    fields = Fields(where, value, ("validFor", "by"))
    read = fields.get("validFor", _duration, None), fields.get("by", lambda at, given: _posters(at, given, name), None)
    fields.check()
    return read


def _posters(where: str, value: object, name: str) -> ApprovalRule:
    """Who may give a verdict. It is a service, as a rule: CI."""
    fields = Fields(where, value, ("roles", "groups", "people"))
    rule = ApprovalRule(name=name, count=1, services=True, **_who(fields))
    fields.check()
    if not rule.who:
        raise InvalidInput(where, "names nobody: expected at least one of roles, groups and people; or no `by`")
    return rule


def _check_document(check: Check) -> dict[str, object]:
    what: object
    match check.kind:
        case CheckKind.EXPRESSION:
            what = check.expression
        case CheckKind.POSTED:
            valid_for = {} if check.valid_for_s is None else {"validFor": write_duration(check.valid_for_s)}
            what = valid_for | ({} if check.by is None else {"by": _who_document(check.by)})
        case CheckKind.SIGNATURE:
            assert check.signed_by is not None  # a check of this kind has one
            what = signed_by_document(check.signed_by)
    message = {"message": check.message} if check.message else {}
    return {"name": check.name, check.kind.value: what, **message, "required": check.is_required}


def _expiry(where: str, value: object) -> Expiry:
    fields = Fields(where, value, ("after", "reminders"))
    after_s = fields.get("after", _duration, _DEFAULT.expiry.after_s)
    usual = tuple(seconds for seconds in _DEFAULT.expiry.reminders_s if seconds < after_s)
    reminders = fields.get("reminders", each_of(_duration), usual)
    fields.check()
    return Expiry(after_s, tuple(sorted(set(reminders), reverse=True)))


def _soak(where: str, value: object) -> Soak:
    fields = Fields(where, value, ("alias", "for"))
    soak = Soak(fields.needed("alias", _alias, ""), fields.needed("for", _duration, 0))
    fields.check()
    return soak


def _companions(where: str, value: object) -> Companions:
    fields = Fields(where, value, ("previous", "promoted", "archived"))
    companions = Companions(
        previous=fields.get("previous", _alias, None),
        promoted=fields.get("promoted", _tags, ()),
        archived=fields.get("archived", _tags, ()),
    )
    fields.check()
    return companions


def _break_glass(where: str, value: object) -> BreakGlass:
    fields = Fields(where, value, ("allowed", "freshWithin", "acr", "review"))
    break_glass = BreakGlass(
        is_allowed=fields.get("allowed", read_truth, default=True),
        fresh_within_s=fields.get("freshWithin", _duration, _DEFAULT.break_glass.fresh_within_s),
        acr=frozenset(fields.get("acr", _names, ())),
        review=fields.get("review", _rules, ()),
    )
    fields.check()
    return break_glass


def _rollback(where: str, value: object) -> tuple[ApprovalRule, ...]:
    fields = Fields(where, value, ("approvals",))
    rules = fields.get("approvals", _rules, ())
    fields.check()
    return rules


def _count(where: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST:
        raise InvalidInput(where, f"expected a whole number from 1 to {MOST}")
    return value


def _duration(where: str, value: object) -> int:
    return parse_duration(where, value)


def _alias(where: str, value: object) -> str:
    return check_alias(read_text(where, value), field=where)


def _role(where: str, value: object) -> str:
    if not isinstance(value, str) or value not in set(Role):
        raise InvalidInput(where, f"no such role: {str(value)[:100]}; expected one of {', '.join(Role)}")
    return value


def _tags(where: str, value: object) -> tuple[tuple[str, str], ...]:
    """Keys and values, by key: a database keeps no other order."""
    if not isinstance(value, Mapping) or len(value) > MOST:
        raise InvalidInput(where, f"expected an object of tags and values, of at most {MOST}")
    for key, each in value.items():
        if not isinstance(key, str) or not key.strip() or not isinstance(each, str):
            raise InvalidInput(f"{where}.{key}", "expected a text for a text; numbers and truth values in quotes")
    return tuple(sorted(value.items()))


def _reasons(where: str, value: object) -> frozenset[ReasonFor]:
    return frozenset(each_of(one_of(ReasonFor))(where, value))


_rules = each_of(_rule)
_names = each_of(read_text)
_roles = each_of(_role)
_aliases = each_of(_alias)

_SHORTENED = {
    name: value
    for name, value in document_of(_DEFAULT).items()
    if name not in {"kind", "name", "models", "alias", "approvals", "breakGlass"}
}
