"""What Ray's messages mean: the reason of a failure, and as much of the message as may be shown."""

from __future__ import annotations

import re

from countersign_ray_serve.contract import Reason

LONGEST_TAIL = 2000

_REASONS = (
    (re.compile(r"DigestMismatch"), Reason.DIGEST_MISMATCH),
    (re.compile(r"ArtifactNotReadable"), Reason.ARTIFACT_NOT_READABLE),
    (re.compile(r"runtime_env|RuntimeEnvSetupError|runtime environment", re.IGNORECASE), Reason.RUNTIME_ENV_FAILED),
)
_NO_CAPACITY = re.compile(r"to be scheduled|resources? (required|available|request)|insufficient", re.IGNORECASE)
_SECRETS = (
    (re.compile(r"(?P<keep>[a-z][a-z0-9+.-]*://)[^/\s@]+@", re.IGNORECASE), r"\g<keep>***@"),
    (re.compile(r"(?P<keep>\bBearer\s+)\S+", re.IGNORECASE), r"\g<keep>***"),
    (re.compile(r"whsec_[A-Za-z0-9+/=_-]+"), "***"),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"), "***"),
    (
        re.compile(
            r"(?P<keep>[\w-]*(secret|token|passw(or)?d|credential|signature|access_?key|api_?key)[\w-]*['\"]?\s*[=:]\s*)"
            r"(?P<quote>['\"]?)[^\s'\",&}]+",
            re.IGNORECASE,
        ),
        r"\g<keep>\g<quote>***",
    ),
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def diagnose(message: str) -> tuple[Reason, str]:
    """Why an application failed, and the tail of what Ray says about it."""
    reason = next((reason for pattern, reason in _REASONS if pattern.search(message)), Reason.MODEL_LOAD_FAILED)
    return reason, tail(message) or "Ray gives no reason."


def reason_for_delay(message: str) -> Reason:
    """Why an application is not running yet, if its message tells."""
    return Reason.NO_CAPACITY if _NO_CAPACITY.search(message) else Reason.NONE


def tail(message: str) -> str:
    """The end of a message, where a traceback names its error; what looks like a secret is masked."""
    message = _COLOURS.sub("", message)
    for pattern, replacement in _SECRETS:
        message = pattern.sub(replacement, message)
    return message.strip()[-LONGEST_TAIL:]
