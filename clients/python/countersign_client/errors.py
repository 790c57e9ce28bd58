"""What can go wrong, as sentences that say what to do. None of them holds a secret."""

from __future__ import annotations

from importlib import metadata


class ClientError(Exception):
    """Root of the family. ``exit_code`` is the status of a command that ends with it."""

    exit_code = 1


class Refused(ClientError):
    """The gateway, or the person who was asked, said no."""


class UnsafeStore(ClientError):
    """The file of logins is damaged, or not for us alone."""


class InvalidUsage(ClientError):
    """What was asked for cannot be meant."""

    exit_code = 2


class InvalidAddress(InvalidUsage):
    """What was given is not the address of a gateway, or not one that a token may be sent to."""


class NotSignedIn(ClientError):
    """There is no login at this gateway, or it has ended."""

    exit_code = 3

    def __init__(self, gateway: str, why: str = "") -> None:
        super().__init__(f"{why or f'You are not signed in at {gateway}.'} Run: {_command()} {gateway}")
        self.gateway = gateway


def _command() -> str:
    """How to sign in here: this package is also installed without the command."""
    try:
        metadata.distribution("countersign")
    except metadata.PackageNotFoundError:
        return "python -m countersign_client"
    return "countersign login"


class Unreachable(ClientError):
    """The gateway does not answer, or not now. Trying again later is right."""

    exit_code = 4
