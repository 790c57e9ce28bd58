"""Resolutions: the answer to "where are the bytes", and for how long it may be remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from enum import StrEnum

from app.domain.policies import Policy
from app.domain.verifying import Verification


@dataclass(frozen=True, slots=True)
class Resolution:
    """The answer.

    ``digest`` and ``promotion_id`` are those of the promotion by which the version was approved, if one was.
    ``model_id`` is that of the logged model (``m-…``) if the address names one; model and version are empty then.
    ``flavors``, ``signature``, ``size`` (bytes) and ``file_count`` are none where they are not known: of what no
    promotion pinned, and whose ``MLmodel`` was not read.
    """

    workspace: str
    model: str
    version: str
    alias: str | None
    uri: str
    source_uri: str
    run_id: str | None
    digest: str | None
    promotion_id: str | None
    model_id: str | None = None
    flavors: tuple[str, ...] | None = None
    signature: Mapping[str, object] | None = field(default=None, hash=False)
    size: int | None = None
    file_count: int | None = None

    @property
    def etag(self) -> str:
        """The same for the same answer."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Held:
    """A version that holds an alias by a promotion, or that targets are to serve by one, and what is known of it.

    ``policy`` is the one under which it was promoted as that is now, none if it is in force no more. ``verification``
    is none while nobody has looked at the bytes. ``description`` is what ``MLmodel`` says (``app/domain/mlmodel.py``);
    that and the sizes are none where no manifest was written.
    """

    promotion_id: str
    alias: str
    version: str
    uri: str
    source_uri: str
    run_id: str | None
    digest: str | None
    policy: Policy | None
    verification: Verification | None = None
    description: Mapping[str, object] | None = field(default=None, hash=False)
    size: int | None = None
    file_count: int | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger knows of a reference.

    ``moving`` are the aliases of the model that are being moved; ``held`` has one for each alias that the version holds
    by a promotion, the last promotion first; and then those by which targets are to serve it.
    """

    moving: frozenset[str] = frozenset()
    held: tuple[Held, ...] = ()


class Remember(StrEnum):
    """For how long an answer is good."""

    UNTIL_CHANGED = "until_changed"  # it is of the ledger, which says when it changes
    BRIEFLY = "briefly"  # it is MLflow's, which does not
    NOT = "not"  # the alias is being moved at this moment


@dataclass(frozen=True, slots=True)
class Found:
    """A resolution that was looked up, and how long it may be remembered."""

    resolution: Resolution
    remember: Remember
