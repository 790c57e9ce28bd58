"""Delegations: somebody stands in for somebody else for a time, and decides with what the other may.

Who stands in uses the other's own roles and groups, never what others delegated to the other: there are no chains.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from app.domain.errors import InvalidInput
from app.domain.grants import LONGEST_PATTERN, MOST_STARS, fold
from app.domain.identity import PrincipalKind

LONGEST = timedelta(days=90)
LONGEST_REASON = 2000


@dataclass(frozen=True, slots=True)
class Person:
    """One side of a delegation."""

    id: str
    name: str
    kind: PrincipalKind = PrincipalKind.PERSON
    is_disabled: bool = False


@dataclass(frozen=True, slots=True)
class Delegation:
    """``to`` decides for ``from`` on promotions of the models that match ``models``, in every workspace, from
    ``starts_at`` until before ``ends_at``, unless it was revoked.
    """

    id: str
    from_id: str
    from_name: str
    to_id: str
    to_name: str
    models: str
    starts_at: datetime
    ends_at: datetime
    reason: str
    created_at: datetime
    created_by: str
    revoked_at: datetime | None = None

    def is_active(self, at: datetime) -> bool:
        return self.revoked_at is None and self.starts_at <= at < self.ends_at

    def covers(self, model: str) -> bool:
        return fnmatchcase(fold(model), fold(self.models))


def delegation(
    delegation_id: str,
    *,
    giver: Person,
    taker: Person,
    models: str,
    starts_at: datetime | None,
    ends_at: datetime,
    reason: str,
    at: datetime,
    by: str,
) -> Delegation:
    """A new one. A beginning in the past is the present.

    Raises:
        InvalidInput: names the field: nobody delegates to themselves, to a service, or for longer than ``LONGEST``.
    """
    starts_at = max(starts_at or at, at)
    if giver.id == taker.id:
        raise InvalidInput("to", "expected somebody else: nobody stands in for themselves")
    for field, side in (("delegator", giver), ("to", taker)):
        if side.kind is not PrincipalKind.PERSON:
            raise InvalidInput(field, f"expected a person: {side.name} is a service")
        if side.is_disabled:
            raise InvalidInput(field, f"an administrator has disabled the account of {side.name}")
    if ends_at <= starts_at:
        raise InvalidInput("ends_at", "expected a time after the beginning, and after now")
    if ends_at - at > LONGEST:
        raise InvalidInput("ends_at", f"expected a time within {LONGEST.days} days")
    if not 0 < len(models) <= LONGEST_PATTERN or models.count("*") > MOST_STARS or not models.isprintable():
        raise InvalidInput(
            "models", f"expected 1 to {LONGEST_PATTERN} printable characters, and {MOST_STARS} `*` among them at most"
        )
    return Delegation(
        id=delegation_id,
        from_id=giver.id,
        from_name=giver.name,
        to_id=taker.id,
        to_name=taker.name,
        models=models,
        starts_at=starts_at,
        ends_at=ends_at,
        reason=reason,
        created_at=at,
        created_by=by,
    )
