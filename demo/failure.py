"""The one way in which the story ends badly: something it claims did not really happen."""

from __future__ import annotations


class StoryFailed(Exception):
    """What did not happen, in words for the person at the terminal."""


class CannotStart(Exception):
    """Nothing was begun: one line that says why and what to change."""


def require(holds: object, otherwise: str) -> None:
    """Fail the story unless ``holds``."""
    if not holds:
        raise StoryFailed(otherwise)
