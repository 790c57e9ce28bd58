"""What a deployer may say of a generation, and the closed list of reasons why one does not get on.

The gateway has the same table (``app/domain/phases.py``); a test of the project holds the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where a generation stands. *Ready*, *Failed*, *Errored* and *Superseded* are its ends."""

    ACCEPTED = "Accepted"
    PROGRESSING = "Progressing"
    READY = "Ready"
    FAILED = "Failed"
    ERRORED = "Errored"
    SUPERSEDED = "Superseded"

    @property
    def is_end(self) -> bool:
        """Whether nothing more is to be done for the generation, as far as is known."""
        return self not in {Phase.ACCEPTED, Phase.PROGRESSING}


PHASES: Mapping[Phase, str] = {
    Phase.ACCEPTED: "It was taken, and is being looked at.",
    Phase.PROGRESSING: "It is on its way; a reason says what it waits for.",
    Phase.READY: "Everything that is named is loaded, and the weights are in effect.",
    Phase.FAILED: "The model or what was asked for is bad: trying again is no use.",
    Phase.ERRORED: "Something else broke, and did not come back in time: trying again may help.",
    Phase.SUPERSEDED: "A higher generation came before it ended.",
}
"""What each says, for people."""


_ON_ITS_WAY = frozenset({Phase.PROGRESSING, Phase.READY, Phase.FAILED, Phase.ERRORED, Phase.SUPERSEDED})

FOLLOWING: Mapping[Phase, frozenset[Phase]] = {
    Phase.ACCEPTED: _ON_ITS_WAY | {Phase.ACCEPTED},
    Phase.PROGRESSING: _ON_ITS_WAY,
    Phase.READY: frozenset({Phase.READY, Phase.PROGRESSING, Phase.SUPERSEDED}),
    Phase.FAILED: frozenset({Phase.FAILED}),
    Phase.ERRORED: frozenset({Phase.ERRORED}),
    Phase.SUPERSEDED: frozenset({Phase.SUPERSEDED}),
}
"""What may be reported of a generation after each. *Progressing* after *Ready* has a reason: something was lost."""


class Reason(StrEnum):
    """Why a generation does not get on, or did not; the empty one when nothing is wrong. A closed list."""

    NONE = ""
    ARTIFACT_NOT_FOUND = "ArtifactNotFound"
    DIGEST_MISMATCH = "DigestMismatch"
    PYTHON_VERSION_MISMATCH = "PythonVersionMismatch"
    DEPENDENCY_MISSING = "DependencyMissing"
    RUNTIME_ENV_FAILED = "RuntimeEnvFailed"
    MODEL_LOAD_FAILED = "ModelLoadFailed"
    CONFIG_REFUSED = "ConfigRefused"
    POLICY_DENIED = "PolicyDenied"
    CALL_REFUSED = "CallRefused"
    STORAGE_DENIED = "StorageDenied"
    STORAGE_UNREACHABLE = "StorageUnreachable"
    NO_CAPACITY = "NoCapacity"
    FIELD_MANAGER_CONFLICT = "FieldManagerConflict"
    UNREACHABLE = "Unreachable"
    UNHEALTHY = "Unhealthy"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"


@dataclass(frozen=True, slots=True)
class ReasonKind:
    """Which end it leads to, and what it means, for people."""

    ends_in: Phase
    meaning: str


_BAD = Phase.FAILED  # the model or what was asked for is bad: trying again is no use
_BROKEN = Phase.ERRORED  # something else broke, and did not come back before the deadline: trying again may help

REASONS: Mapping[Reason, ReasonKind] = {
    Reason.ARTIFACT_NOT_FOUND: ReasonKind(_BAD, "The files of the version are not at its address."),
    Reason.DIGEST_MISMATCH: ReasonKind(_BAD, "The files are not those that were approved."),
    Reason.PYTHON_VERSION_MISMATCH: ReasonKind(
        _BAD, "The model was saved with another minor version of Python than the target runs."
    ),
    Reason.DEPENDENCY_MISSING: ReasonKind(_BAD, "The model needs a Python package that is not there."),
    Reason.RUNTIME_ENV_FAILED: ReasonKind(_BAD, "The packages for the model could not be installed."),
    Reason.MODEL_LOAD_FAILED: ReasonKind(_BAD, "The model could not be loaded."),
    Reason.CONFIG_REFUSED: ReasonKind(_BAD, "The serving system refused the configuration."),
    Reason.POLICY_DENIED: ReasonKind(_BAD, "The deployer may not do what it was asked to."),
    Reason.CALL_REFUSED: ReasonKind(_BAD, "The deployer did not take the call."),
    Reason.STORAGE_DENIED: ReasonKind(_BROKEN, "The target may not read where the files are."),
    Reason.STORAGE_UNREACHABLE: ReasonKind(_BROKEN, "The target could not reach where the files are."),
    Reason.NO_CAPACITY: ReasonKind(_BROKEN, "There is no room for the version where it should run."),
    Reason.FIELD_MANAGER_CONFLICT: ReasonKind(_BROKEN, "Somebody else manages the same fields of the same object."),
    Reason.UNREACHABLE: ReasonKind(_BROKEN, "The deployer, or the serving system behind it, did not answer."),
    Reason.UNHEALTHY: ReasonKind(_BROKEN, "The version started and then did not stay well."),
    Reason.PROGRESS_DEADLINE_EXCEEDED: ReasonKind(_BROKEN, "The version was not ready in time."),
}
"""Total over ``Reason`` but for the empty one."""
