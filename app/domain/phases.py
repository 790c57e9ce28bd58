"""What a deployer may say of a generation, and the closed list of reasons why one does not get on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """What a deployer says of a generation. *Ready*, *Failed*, *Errored* and *Superseded* are its ends."""

    REQUESTED = "Requested"  # we called, or are about to; the deployer has not reported yet
    ACCEPTED = "Accepted"
    PROGRESSING = "Progressing"
    READY = "Ready"
    FAILED = "Failed"  # the model or its configuration is bad: trying again is no use
    ERRORED = "Errored"  # something else broke, and did not come back in time: trying again may help
    SUPERSEDED = "Superseded"


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
    """Which end it leads to, what it means, and what helps; for people."""

    ends_in: Phase
    meaning: str
    remedy: str


REASONS: Mapping[Reason, ReasonKind] = {
    Reason.ARTIFACT_NOT_FOUND: ReasonKind(
        Phase.FAILED,
        "The files of the version are not at its address.",
        "Promote a version whose files are there, or put them back as they were approved.",
    ),
    Reason.DIGEST_MISMATCH: ReasonKind(
        Phase.FAILED,
        "The files are not those that were approved.",
        "Find out who changed them; put them back, or have the version as it is now approved.",
    ),
    Reason.PYTHON_VERSION_MISMATCH: ReasonKind(
        Phase.FAILED,
        "The model was saved with another minor version of Python than the target runs.",
        "Log the model with the target's Python, or have the target run the model's.",
    ),
    Reason.DEPENDENCY_MISSING: ReasonKind(
        Phase.FAILED,
        "The model needs a Python package that is not there.",
        "Add the package to the target's environment, or to the packages that its deployer installs.",
    ),
    Reason.RUNTIME_ENV_FAILED: ReasonKind(
        Phase.FAILED,
        "The packages for the model could not be installed.",
        "Look at the installer's output in the message; correct the list of packages.",
    ),
    Reason.MODEL_LOAD_FAILED: ReasonKind(
        Phase.FAILED,
        "The model could not be loaded.",
        "Load it the way the target does; the message says what it said.",
    ),
    Reason.CONFIG_REFUSED: ReasonKind(
        Phase.FAILED,
        "The serving system refused the configuration.",
        "Correct the target's options; the message names the field.",
    ),
    Reason.POLICY_DENIED: ReasonKind(
        Phase.FAILED,
        "The deployer may not do what it was asked to.",
        "Have its operator allow it (where it may load from, what it may replace), or ask for something else.",
    ),
    Reason.CALL_REFUSED: ReasonKind(
        Phase.FAILED,
        "The deployer did not take the call.",
        "Its answer is in the message: a wrong secret, clock or target, or something it does not support.",
    ),
    Reason.STORAGE_DENIED: ReasonKind(
        Phase.ERRORED,
        "The target may not read where the files are.",
        "Give the target's identity leave to read the address, then deploy again.",
    ),
    Reason.STORAGE_UNREACHABLE: ReasonKind(
        Phase.ERRORED,
        "The target could not reach where the files are.",
        "Look at the network and the store; deploy again.",
    ),
    Reason.NO_CAPACITY: ReasonKind(
        Phase.ERRORED,
        "There is no room for the version where it should run.",
        "Add nodes, or ask for less in the target's options; then deploy again.",
    ),
    Reason.FIELD_MANAGER_CONFLICT: ReasonKind(
        Phase.ERRORED,
        "Somebody else manages the same fields of the same object.",
        "Have one of the two let go (the message names the other), or let the deployer take over by `force`.",
    ),
    Reason.UNREACHABLE: ReasonKind(
        Phase.ERRORED,
        "The deployer, or the serving system behind it, did not answer.",
        "Look whether it runs and can be reached; deploy again.",
    ),
    Reason.UNHEALTHY: ReasonKind(
        Phase.ERRORED,
        "The version started and then did not stay well.",
        "Look at its logs; deploy again, or roll back.",
    ),
    Reason.PROGRESS_DEADLINE_EXCEEDED: ReasonKind(
        Phase.ERRORED,
        "The version was not ready in time.",
        "Look at the target for what it waits for; give it a longer deadline, or deploy again.",
    ),
}
"""Total over ``Reason`` but for the empty one; ``deploy/deployers/contract`` says the same to deployers."""
