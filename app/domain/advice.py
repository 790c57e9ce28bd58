"""What a receiver's answer means for who registered it, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping

from app.domain.deliveries import Attempt

_REFUSES = "It refuses the signature, or wants a login. Does it verify with the right key, and a right clock?"

BY_STATUS: Mapping[int, str] = {
    401: _REFUSES,
    403: _REFUSES,
    404: "There is nobody at this path: is the URL right?",
    405: "It takes no POST at this path: is the URL right?",
    408: "It waited too long for the message.",
    410: "It says that it is gone for good: an endpoint is sent nothing more until somebody enables it.",
    413: "The message is too large for it, or for a proxy before it.",
    425: "It is not ready yet.",
    429: "It wants fewer messages.",
}
BY_HUNDRED: Mapping[int, str] = {
    1: "That is no answer to a message.",
    3: "Redirects are not followed: write down the address that it leads to.",
    4: "It holds the message to be wrong: its own log says why.",
    5: "It broke, or is overloaded: its own log says why.",
}


def advice(attempt: Attempt) -> str:
    """Empty where it took the message, or where there was no answer and ``error`` says why."""
    if attempt.status is None:
        return ""
    return BY_STATUS.get(attempt.status) or BY_HUNDRED.get(attempt.status // 100, "")
