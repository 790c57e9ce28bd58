"""Which versions of MLflow the table of routes describes."""

from __future__ import annotations

DESCRIBED = (3, 17)
"""The minor version whose routes the table lists, each and no other. For the minor before and the newest version a test
walks them too: there the table forwards nothing that has another meaning, and what they add is refused as unknown."""


def warning_about(version: str) -> str | None:
    """What an operator should know about an MLflow of ``version`` (the answer of ``GET /version``); none if nothing."""
    expected = ".".join(map(str, DESCRIBED))
    major, _, rest = version.strip().partition(".")
    if (major, rest.partition(".")[0]) == tuple(map(str, DESCRIBED)):
        return None
    return (
        f"MLflow {version.strip()[:40]!a} answers, and the table of routes describes {expected}: what another version "
        "adds is refused, and what it changed was not looked at. `countersign routes` prints the table."
    )
