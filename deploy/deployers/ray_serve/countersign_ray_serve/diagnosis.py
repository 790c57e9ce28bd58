"""What Ray's messages mean: the reason of a failure, and as much of the message as may be shown."""

from __future__ import annotations

import re

from countersign_deployer.phases import Reason

LONGEST_TAIL = 2000

_SAID = re.compile(r"countersign_ray_serve\.serving\.failures\.(?P<reason>\w+): (?P<message>[^\n]+)")
"""What a replica said by ``serving.failures``, whose classes are called as the reasons are."""
_MISSING = re.compile(r"(?:ModuleNotFoundError|ImportError): No module named '(?P<name>[^'.]+)[^']*'")
_RUNTIME_ENV = re.compile(r"RuntimeEnvSetupError|runtime env setup|set up runtime environment", re.IGNORECASE)
_OURS = "countersign_ray_serve"
_BY_NAME = {reason.value: reason for reason in Reason if reason}
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
    """Why an application failed, and what helps to see it: what the replica said of it, or the end of Ray's message."""
    plain = _COLOURS.sub("", message)
    for said in reversed([*_SAID.finditer(plain)]):
        if reason := _BY_NAME.get(said["reason"]):
            return reason, tail(said["message"])
    if _RUNTIME_ENV.search(plain):
        return Reason.RUNTIME_ENV_FAILED, tail(plain)
    for missing in reversed([*_MISSING.finditer(plain)]):
        name = missing["name"]
        remedy = (
            "put it into Ray's image, or set SHIP=upload" if name == _OURS else "add it to Ray's image or RUNTIME_PIP"
        )
        return Reason.DEPENDENCY_MISSING, f"The package '{name}' is not installed where the replicas run: {remedy}."
    return Reason.MODEL_LOAD_FAILED, tail(plain) or "Ray gives no reason."


def reason_for_delay(message: str) -> Reason:
    """Why an application is not running yet, if its message tells."""
    return Reason.NO_CAPACITY if _NO_CAPACITY.search(message) else Reason.NONE


def tail(message: str) -> str:
    """The end of a message, where a traceback names its error; what looks like a secret is masked."""
    message = _COLOURS.sub("", message)
    for pattern, replacement in _SECRETS:
        message = pattern.sub(replacement, message)
    return message.strip()[-LONGEST_TAIL:]
