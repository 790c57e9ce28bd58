"""What moves together with an alias, step by step, so that it can be done again after a crash, and undone."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.promotions import Kind, Promotion


@dataclass(frozen=True, slots=True)
class Step:
    """Sets one thing to ``value``: a tag of ``version``, or an alias where that is none (its value is a version)."""

    key: str
    value: str
    version: str | None = None

    def __str__(self) -> str:
        return f"tag {self.key} of version {self.version}" if self.version else f"alias {self.key}"


def former_holder(promotion: Promotion) -> str | None:
    """The version that another takes the place of; none if it is the same, or if it came past the gateway.

    Who moved the alias past the gateway made nobody its holder, so that a restoration leaves that version alone.
    """
    is_intruder = promotion.kind is Kind.RESTORE
    return None if is_intruder or promotion.from_version == promotion.to_version else promotion.from_version


def steps_of(promotion: Promotion) -> tuple[Step, ...]:
    """What is set after the alias, in this order. They follow from what is pinned, so they are always the same."""
    companions, former = promotion.policy.companions, former_holder(promotion)
    new = [Step(key, value, promotion.to_version) for key, value in companions.promoted]
    if former is None:
        return tuple(new)
    previous = [Step(companions.previous, former)] if companions.previous else []
    return (*previous, *new, *(Step(key, value, former) for key, value in companions.archived))
