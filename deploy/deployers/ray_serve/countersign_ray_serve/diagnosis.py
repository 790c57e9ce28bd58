"""What Ray's messages mean: the reason of a failure, and as much of the message as may be shown."""

from __future__ import annotations

import re

from countersign_deployer.masking import plain, tail
from countersign_deployer.phases import Reason

_SAID = re.compile(r"countersign_ray_serve\.serving\.failures\.(?P<reason>\w+): (?P<message>[^\n]+)")
"""What a replica said by ``serving.failures``, whose classes are called as the reasons are."""
_MISSING = re.compile(r"(?:ModuleNotFoundError|ImportError): No module named '(?P<name>[^'.]+)[^']*'")
_RUNTIME_ENV = re.compile(r"RuntimeEnvSetupError|runtime env setup|set up runtime environment", re.IGNORECASE)
_OURS = "countersign_ray_serve"
_BY_NAME = {reason.value: reason for reason in Reason if reason}
_NO_CAPACITY = re.compile(r"to be scheduled|resources? (required|available|request)|insufficient", re.IGNORECASE)


def diagnose(message: str) -> tuple[Reason, str]:
    """Why an application failed, and what helps to see it: what the replica said of it, or the end of Ray's message."""
    message = plain(message)
    for said in reversed([*_SAID.finditer(message)]):
        if reason := _BY_NAME.get(said["reason"]):
            return reason, tail(said["message"])
    if _RUNTIME_ENV.search(message):
        return Reason.RUNTIME_ENV_FAILED, tail(message)
    for missing in reversed([*_MISSING.finditer(message)]):
        name = missing["name"]
        remedy = (
            "put it into Ray's image, or set SHIP=upload" if name == _OURS else "add it to Ray's image or RUNTIME_PIP"
        )
        return Reason.DEPENDENCY_MISSING, f"The package '{name}' is not installed where the replicas run: {remedy}."
    return Reason.MODEL_LOAD_FAILED, tail(message) or "Ray gives no reason."


def reason_for_delay(message: str) -> Reason:
    """Why an application is not running yet, if its message tells."""
    return Reason.NO_CAPACITY if _NO_CAPACITY.search(message) else Reason.NONE
