"""What a policy can say. One immutable revision is a value; promotions are bound to the revision they began under.

Defaults are what a team without special needs wants: nothing but a second person.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

from app.domain.grants import DEFAULT_WORKSPACE, fold
from app.domain.policies.approvals import ApprovalRule
from app.domain.roles import Role
from app.domain.rollouts import AliasMoves, Rollout
from app.domain.signatures import SignedBy
from app.domain.windows import Window

DAY_S = 86_400


class Rejection(StrEnum):
    """How many rejections close a promotion."""

    ANY = "any"
    MAJORITY = "majority"
    """More than half as many as there are places to fill by approvals."""


class Supersede(StrEnum):
    """Which waiting promotions of an alias a newer one takes the place of."""

    ANY = "any"
    OWN = "own"
    """Those of the same requester; while another's waits, a newer one is refused."""


class OnDrift(StrEnum):
    """What is done when the alias was moved past the gateway. It is always reported."""

    REPORT = "report"
    RESTORE = "restore"


class ReasonFor(StrEnum):
    """For what a reason must be given."""

    REQUEST = "request"
    APPROVE = "approve"
    REJECT = "reject"
    WITHDRAW = "withdraw"
    ROLLBACK = "rollback"


class CheckKind(StrEnum):
    EXPRESSION = "expression"
    """A CEL expression over the facts (``app/domain/facts.py``)."""
    POSTED = "posted"
    """A verdict that CI posts."""
    SIGNATURE = "signature"
    """An OpenSSF model signature that verifies."""


@dataclass(frozen=True, slots=True)
class Check:
    """A named verdict on the candidate. One that is not required is shown, and blocks nothing.

    ``valid_for_s`` and ``by`` are of posted checks: how old a verdict may be, in seconds, and who may give it (roles,
    groups or ids; none named: whoever may post checks on the model).
    """

    name: str
    kind: CheckKind
    is_required: bool = True
    expression: str = ""
    message: str = ""
    valid_for_s: int | None = None
    by: ApprovalRule | None = None
    signed_by: SignedBy | None = None


@dataclass(frozen=True, slots=True)
class Expiry:
    """A promotion that is not being applied ``after_s`` seconds after it was asked for has expired.

    ``reminders_s`` are the seconds before that at which approvers are reminded, longest first.
    """

    after_s: int = 14 * DAY_S
    reminders_s: tuple[int, ...] = (DAY_S,)


@dataclass(frozen=True, slots=True)
class Soak:
    """The version must have held ``alias`` for ``for_s`` seconds without a break, and hold it still."""

    alias: str
    for_s: int


@dataclass(frozen=True, slots=True)
class BreakGlass:
    """Whether somebody with the permission may move the alias at once, and who reviews it afterwards.

    ``fresh_within_s`` is how long ago, at most, they proved who they are (``auth_time``), in seconds; ``acr`` are the
    authentication context classes of which their sign-in must have one (none: any). ``review`` are rules of which one
    must name the reviewer; none: the policy's own approval rules.
    """

    is_allowed: bool = True
    fresh_within_s: int = 300
    acr: frozenset[str] = frozenset()
    review: tuple[ApprovalRule, ...] = ()


@dataclass(frozen=True, slots=True)
class Companions:
    """What moves together with the alias.

    ``previous`` is an alias that the former holder gets; ``promoted`` and ``archived`` are tags that the new and the
    former holder get, as (key, value).
    """

    previous: str | None = None
    promoted: tuple[tuple[str, str], ...] = ()
    archived: tuple[tuple[str, str], ...] = ()


DEFAULT_ROLLOUT = Rollout()


@dataclass(frozen=True, slots=True)
class Policy:
    """One immutable revision.

    ``workspaces``, ``models`` and ``alias`` are shell patterns, compared on folded names; ``tags`` are (key, pattern),
    by key, that the registered model's own tags must all match. ``after`` are aliases that the version must have held
    before, each by a promotion or with nobody's promotion needed.
    """

    name: str
    revision: int
    models: str
    alias: str
    approvals: tuple[ApprovalRule, ...]
    workspaces: str = "*"
    tags: tuple[tuple[str, str], ...] = ()
    auto_approve: bool = False
    rejection: Rejection = Rejection.ANY
    reasons: frozenset[ReasonFor] = frozenset()
    expiry: Expiry = Expiry()
    after: tuple[str, ...] = ()
    soak: Soak | None = None
    windows: tuple[Window, ...] = ()
    checks: tuple[Check, ...] = ()
    supersede: Supersede = Supersede.ANY
    on_drift: OnDrift = OnDrift.REPORT
    companions: Companions = Companions()
    break_glass: BreakGlass = BreakGlass()
    rollback_approvals: tuple[ApprovalRule, ...] = ()
    targets: tuple[str, ...] = ()
    alias_moves: AliasMoves = AliasMoves.BEFORE
    rollout: Rollout = DEFAULT_ROLLOUT

    def protects(
        self, model: str, alias: str, *, workspace: str = DEFAULT_WORKSPACE, tags: dict[str, str] | None = None
    ) -> bool:
        """Whether the alias is this policy's business. Tags that are not known (none) could be any."""
        return fnmatchcase(fold(alias), fold(self.alias)) and self.is_for(model, workspace, tags)

    def moves_along(
        self, model: str, alias: str, *, workspace: str = DEFAULT_WORKSPACE, tags: dict[str, str] | None = None
    ) -> bool:
        """Whether the alias is moved together with one that this policy protects."""
        previous = self.companions.previous
        return previous is not None and fold(previous) == fold(alias) and self.is_for(model, workspace, tags)

    def selects_by(self, key: str) -> bool:
        """Whether a model's tag of this key decides if the policy is for it; look-alikes are one to some databases."""
        return fold(key) in {fold(each) for each, _ in self.tags}

    def is_for(self, model: str, workspace: str, tags: dict[str, str] | None = None) -> bool:
        """Whether it is for aliases of this model. Tags that are not known (none) could be any."""
        return (
            fnmatchcase(fold(model), fold(self.models))
            and fnmatchcase(fold(workspace), fold(self.workspaces))
            and (tags is None or all(fnmatchcase(tags.get(key, ""), wanted) for key, wanted in self.tags))
        )


DEFAULT_POLICY = Policy(
    name="production",
    revision=1,
    models="*",
    alias="production",
    approvals=(ApprovalRule(name="a second person", count=1, roles=frozenset({Role.APPROVER.value})),),
)
"""What protects a fresh installation: ``production`` of any model needs one approver who did not ask for it."""
