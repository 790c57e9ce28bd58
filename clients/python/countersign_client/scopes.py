"""What a login or token may do at most: the names of the gateway's scopes."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    TRACK = "track"
    REGISTRY = "registry"
    PROMOTE = "promote"
    APPROVE = "approve"
    RESOLVE = "resolve"
    ADMIN = "admin"
