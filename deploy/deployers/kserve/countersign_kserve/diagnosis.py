"""What pods, Deployments and KServe say of why a version does not get on: the reason, and as much as may be shown.

Total over what it is given: what it does not understand is a model that does not load, if a pod crashes, and nothing
at all otherwise, so that the deadline decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from countersign_deployer.masking import tail
from countersign_deployer.phases import REASONS, Phase, Reason

from countersign_kserve import names

Json = Mapping[str, Any]

INITIALIZER = "storage-initializer"

_STORAGE = (
    (re.compile(r"DigestMismatch|digest", re.IGNORECASE), Reason.DIGEST_MISMATCH),
    (re.compile(r"not approved|PolicyDenied", re.IGNORECASE), Reason.POLICY_DENIED),
    (
        re.compile(
            r"AccessDenied|Access Denied|Forbidden|\b403\b|\b401\b|Unauthorized|InvalidAccessKeyId"
            r"|SignatureDoesNotMatch|NoCredentials|Unable to locate credentials|ExpiredToken|permission denied",
            re.IGNORECASE,
        ),
        Reason.STORAGE_DENIED,
    ),
    (
        re.compile(
            r"NoSuchKey|NoSuchBucket|\b404\b|not found|does not exist|no model found|failed to fetch model"
            r"|no such file",
            re.IGNORECASE,
        ),
        Reason.ARTIFACT_NOT_FOUND,
    ),
    (
        re.compile(
            r"could not connect|connection (refused|reset|aborted)|EndpointConnectionError|timed? ?out|name resolution",
            re.IGNORECASE,
        ),
        Reason.STORAGE_UNREACHABLE,
    ),
)
_CONTAINER = (
    (re.compile(r"DigestMismatch"), Reason.DIGEST_MISMATCH),
    (re.compile(r"ModuleNotFoundError|No module named|DistributionNotFound"), Reason.DEPENDENCY_MISSING),
    (
        re.compile(r"unsupported pickle protocol|python version|python_version", re.IGNORECASE),
        Reason.PYTHON_VERSION_MISMATCH,
    ),
    (re.compile(r"OOMKilled|out of memory|MemoryError", re.IGNORECASE), Reason.NO_CAPACITY),
)
_WAITING = {
    "ErrImagePull": Reason.RUNTIME_ENV_FAILED,
    "ImagePullBackOff": Reason.RUNTIME_ENV_FAILED,
    "InvalidImageName": Reason.CONFIG_REFUSED,
    "CreateContainerConfigError": Reason.CONFIG_REFUSED,
    "CreateContainerError": Reason.CONFIG_REFUSED,
}
_CREATION = (
    (re.compile(r"exceeded quota"), Reason.NO_CAPACITY),
    (re.compile(r"serviceaccount .* not found"), Reason.CONFIG_REFUSED),
    (re.compile(r"denied the request|is forbidden|violates PodSecurity"), Reason.POLICY_DENIED),
)
INVALID_SPEC = {
    "NoSupportingRuntime": Reason.CONFIG_REFUSED,
    "RuntimeNotRecognized": Reason.CONFIG_REFUSED,
    "RuntimeDisabled": Reason.CONFIG_REFUSED,
    "InvalidPredictorSpec": Reason.CONFIG_REFUSED,
}
"""Of ``modelStatus.lastFailureInfo``: what KServe says before it makes any pod."""


@dataclass(frozen=True, slots=True)
class Symptom:
    """Why something does not get on. ``is_final``: waiting will not help."""

    reason: Reason
    message: str
    is_final: bool = False


def of_pods(pods: Sequence[Json], template: str, *, crash_restarts: int) -> Symptom | None:
    """What is wrong with the pods of a version, the worst first; none if nothing is."""
    ours = [pod for pod in pods if _annotations(pod).get(names.TEMPLATE) == template and not _is_leaving(pod)]
    found = sorted(
        (symptom for pod in ours for symptom in _of_pod(pod, crash_restarts)), key=lambda each: not each.is_final
    )
    return found[0] if found else None


def of_deployment(deployment: Json | None) -> Symptom | None:
    """Why a Deployment cannot make pods, if it says so."""
    for condition in ((deployment or {}).get("status") or {}).get("conditions") or []:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            message = str(condition.get("message") or condition.get("reason"))
            reason = next((reason for pattern, reason in _CREATION if pattern.search(message)), Reason.CONFIG_REFUSED)
            return Symptom(reason, f"Kubernetes cannot create the pods: {tail(message)}")
    return None


def of_failure(info: Json) -> Symptom:
    """Of ``modelStatus.lastFailureInfo``."""
    kind, message = str(info.get("reason", "")), str(info.get("message", ""))
    if kind in INVALID_SPEC:
        return Symptom(INVALID_SPEC[kind], tail(f"KServe: {kind}: {message}"), is_final=True)
    reason = _first(_CONTAINER, message) or _first(_STORAGE, message) or Reason.MODEL_LOAD_FAILED
    return Symptom(reason, tail(message) or f"KServe: {kind}", is_final=is_bad(reason))


def _of_pod(pod: Json, crash_restarts: int) -> Iterator[Symptom]:
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            yield Symptom(Reason.NO_CAPACITY, tail(f"No node has room: {condition.get('message', '')}"))
    for container in status.get("initContainerStatuses") or []:
        if (symptom := _of_container(container, crash_restarts)) is not None:
            yield symptom
    for container in status.get("containerStatuses") or []:
        if (symptom := _of_container(container, crash_restarts)) is not None:
            yield symptom


def _of_container(container: Json, crash_restarts: int) -> Symptom | None:
    state, last = container.get("state") or {}, container.get("lastState") or {}
    waiting = state.get("waiting") or {}
    if waiting.get("reason") in _WAITING:
        message = tail(f"{container.get('name')}: {waiting['reason']}: {waiting.get('message', '')}")
        return Symptom(_WAITING[waiting["reason"]], message)
    ended = state.get("terminated") or (last.get("terminated") if not container.get("ready") else None)
    if not ended or ended.get("exitCode") == 0:
        return None
    said = f"{ended.get('reason') or 'Error'}: {ended.get('message') or ''}".strip(": \n")
    in_storage = container.get("name") == INITIALIZER
    if in_storage:
        reason = _first(_STORAGE, said) or Reason.STORAGE_UNREACHABLE
    else:
        reason = _first(_CONTAINER, said) or Reason.MODEL_LOAD_FAILED
    is_final = is_bad(reason) and container.get("restartCount", 0) >= crash_restarts
    return Symptom(reason, tail(f"{container.get('name')} ended with {ended.get('exitCode')}: {said}"), is_final)


def is_bad(reason: Reason) -> bool:
    """Whether it is the model that is wrong: what is broken elsewhere may come back before the deadline."""
    return REASONS[reason].ends_in is Phase.FAILED


def _first(table: Sequence[tuple[re.Pattern[str], Reason]], text: str) -> Reason | None:
    return next((reason for pattern, reason in table if pattern.search(text)), None)


def _is_leaving(pod: Json) -> bool:
    return bool((pod.get("metadata") or {}).get("deletionTimestamp"))


def _annotations(thing: Json) -> Mapping[str, str]:
    found: Mapping[str, str] = (thing.get("metadata") or {}).get("annotations") or {}
    return found
