"""What Ray's messages mean: the reason of a failure, and as much of the message as may be shown."""

from __future__ import annotations

import re

from countersign_deployer.masking import LONGEST_TAIL, plain, tail
from countersign_deployer.phases import Reason

_SAID = re.compile(r"countersign_ray_serve\.serving\.failures\.(?P<reason>\w+): (?P<message>[^\n]+)")
"""What a replica said by ``serving.failures``, whose classes are called as the reasons are."""
_MISSING = re.compile(r"(?:ModuleNotFoundError|ImportError): No module named '(?P<name>[^'.]+)[^']*'")
_RUNTIME_ENV = re.compile(r"RuntimeEnvSetupError|runtime env setup|set up runtime environment", re.IGNORECASE)
_OURS = "countersign_ray_serve"
_BY_NAME = {reason.value: reason for reason in Reason if reason}
_NO_CAPACITY = re.compile(r"to be scheduled|resources? (required|available|request)|insufficient", re.IGNORECASE)

_INSTALLER = re.compile(r"\s{0,20}(?:ERROR:|error:|╰─▶) (?P<error>\S.*)")
"""As pip and uv say why they could not install something."""
_FRAME = re.compile(r'  File "')
_WRAPPING = re.compile(r"ray::|Traceback \(|[\w.]{1,200}(?:\(\w{1,200}\))?: (?:ray::|Traceback \()|\s|$")
"""Lines by which Ray carries another's error: it begins below them."""
_ERROR = re.compile(r"[\w.]{0,200}(?:Error|Exception): \S")
LONGEST_ERROR = 400
"""Characters. What a person reads first has to fit where only the beginning of a message is shown."""
_LOOKED_AT = 1500
"""Characters of an error: more than are shown, for half an address could not be seen to hold a password."""


def diagnose(message: str) -> tuple[Reason, str]:
    """Why an application failed, and what helps to see it: what the replica said of it, or Ray's message."""
    message = plain(message)
    for said in reversed([*_SAID.finditer(message)]):
        if reason := _BY_NAME.get(said["reason"]):
            return reason, tail(said["message"])
    if _RUNTIME_ENV.search(message):
        return Reason.RUNTIME_ENV_FAILED, error_first(message)
    for missing in reversed([*_MISSING.finditer(message)]):
        name = missing["name"]
        remedy = (
            "put it into Ray's image, or set SHIP=upload" if name == _OURS else "add it to Ray's image or RUNTIME_PIP"
        )
        return Reason.DEPENDENCY_MISSING, f"The package '{name}' is not installed where the replicas run: {remedy}."
    return Reason.MODEL_LOAD_FAILED, error_first(message) or "Ray gives no reason."


def reason_for_delay(message: str) -> Reason:
    """Why an application is not running yet, if its message tells."""
    return Reason.NO_CAPACITY if _NO_CAPACITY.search(message) else Reason.NONE


def error_first(message: str) -> str:
    """The error that a message ends with, then the end of the message, in whole lines; without secrets.

    No longer than ``masking.LONGEST_TAIL``.
    """
    message = plain(message)
    end, error = tail(message), _masked(_error_of(message.splitlines()))
    if not error or end.startswith(error):
        return end
    if len(" ".join(message.split())) <= LONGEST_ERROR:
        return f"{error}\n\n{end}"
    heading = f"{error}\n\nRay's message ends with:\n"
    room = LONGEST_TAIL - len(heading)
    if len(end) > room:
        _, _, whole_lines = end[-room:].partition("\n")
        end = whole_lines or end[-room:]
    return heading + end


def _error_of(lines: list[str]) -> str:
    """What was raised last, which a traceback names below its last frame; or why an installer gave up."""
    for line in reversed(lines):
        if said := _INSTALLER.match(line):
            return said["error"]
    last_frame = max((at for at, line in enumerate(lines) if _FRAME.match(line)), default=None)
    if last_frame is None:
        return next((line for line in reversed(lines) if _ERROR.match(line) and not _WRAPPING.match(line)), "")
    below = lines[last_frame + 1 :]
    begins = next((at for at, line in enumerate(below) if not _WRAPPING.match(line)), len(below))
    return "\n".join(below[begins:])


def _masked(error: str) -> str:
    shown = " ".join(tail(error[:_LOOKED_AT]).split())
    return shown if len(shown) <= LONGEST_ERROR else shown[: LONGEST_ERROR - 1] + "\N{HORIZONTAL ELLIPSIS}"
