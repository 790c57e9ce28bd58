"""What can go wrong, as sentences that say what to do. None of them holds a secret."""

from __future__ import annotations

from collections.abc import Mapping

_WRONG_INPUT = frozenset({400, 413, 422})


class ClientError(Exception):
    """Root of the family. ``exit_code`` is the status of a command that ends with it."""

    exit_code = 1


class Refused(ClientError):
    """The gateway, or the person who was asked, said no.

    ``status`` is that of its answer, 0 if there was none; ``problem`` what it said (RFC 9457), if it was asked.
    """

    def __init__(self, message: str, *, status: int = 0, problem: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem or {}
        if status in _WRONG_INPUT:
            self.exit_code = InvalidUsage.exit_code


class UnsafeStore(ClientError):
    """The file of logins is damaged, or not for us alone."""


class InvalidUsage(ClientError):
    """What was asked for cannot be meant."""

    exit_code = 2


class InvalidAddress(InvalidUsage):
    """What was given is not the address of a gateway, or not one that a token may be sent to."""


class Changed(ClientError):
    """What is there is not what was asked for, or not any more."""

    exit_code = 7


class NotSignedIn(ClientError):
    """There is no login at this gateway, or it has ended."""

    exit_code = 3

    def __init__(self, gateway: str, why: str = "") -> None:
        super().__init__(f"{why or f'You are not signed in at {gateway}.'} Run: countersign login {gateway}")
        self.gateway = gateway


class TokenRefused(NotSignedIn):
    """The token that this process was given is not accepted: it is wrong, or has ended."""

    def __init__(self, gateway: str, whence: str) -> None:
        ClientError.__init__(self, f"{gateway} does not accept the token in {whence}: it is wrong, or has ended.")
        self.gateway = gateway


class SignInTooOld(NotSignedIn):
    """What is asked for wants somebody who signed in just now (RFC 9470). A token that is refreshed is no fresher."""

    def __init__(self, gateway: str, why: str, page: str) -> None:
        again = f"countersign login {gateway} --scope promote --scope approve"
        ClientError.__init__(self, f"{why} Sign in anew at {page} and then run: {again}")
        self.gateway = gateway


class Unreachable(ClientError):
    """The gateway does not answer, or not now. Trying again later is right."""

    exit_code = 4
