"""What moves together with an alias, step by step, so that it can be done again after a crash, and undone."""

from __future__ import annotations

from dataclasses import dataclass

from app.domain.promotions import Promotion


@dataclass(frozen=True, slots=True)
class Step:
    """Sets one thing to ``value``: a tag of ``version``, or an alias where that is none (its value is a version)."""

    key: str
    value: str
    version: str | None = None

    def __str__(self) -> str:
        return f"tag {self.key} of version {self.version}" if self.version else f"alias {self.key}"


def steps_of(promotion: Promotion) -> tuple[Step, ...]:
    """What is set after the alias, in this order. They follow from what is pinned, so they are always the same."""
    companions, former = promotion.policy.companions, promotion.from_version
    new = [Step(key, value, promotion.to_version) for key, value in companions.promoted]
    if former is None or former == promotion.to_version:
        return tuple(new)
    previous = [Step(companions.previous, former)] if companions.previous else []
    return (*previous, *new, *(Step(key, value, former) for key, value in companions.archived))
