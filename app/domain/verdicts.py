"""Allow and deny as values with a reason, never a bare bool."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Allow:
    """Yes."""

    def __bool__(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Deny:
    """No, and why: a sentence for the person who asked."""

    reason: str

    def __bool__(self) -> bool:
        return False


Verdict = Allow | Deny
ALLOW = Allow()
