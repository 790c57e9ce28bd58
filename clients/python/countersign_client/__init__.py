"""Signs in to a Countersign gateway, and follows and downloads models: the functions that scripts call.

What they need is imported when they are called, so that the ``countersign`` command starts quickly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from countersign_client.errors import Changed, ClientError, NotSignedIn, Refused, Unreachable, UnsafeStore

if TYPE_CHECKING:
    import os

    from countersign_client.pulling import Pulled
    from countersign_client.resolving import Resolved

__all__ = [
    "Changed",
    "ClientError",
    "NotSignedIn",
    "Refused",
    "Unreachable",
    "UnsafeStore",
    "access_token",
    "follow",
    "login",
    "logout",
    "pull",
    "resolve",
]

DEFAULT_SCOPES = ("track", "registry", "promote", "resolve")
"""What a scientist's day needs; ``approve`` and ``admin`` are asked for by name."""


def login(gateway: str, *, scopes: Iterable[str] = DEFAULT_SCOPES) -> None:
    """Sign in by a code that is confirmed in a browser, on this machine or another, and set MLflow's environment
    variables for this process.

    Raises:
        Refused: the person or the gateway said no, or nobody answered in time.
        Unreachable: the gateway does not answer.
        UnsafeStore: the file of logins cannot be used.
    """
    import os

    from countersign_client.signing_in import DeviceCode, by_device

    def show(code: DeviceCode) -> None:
        print(f"Open {code.address} in a browser, and allow the code {code.user_code}", flush=True)  # noqa: T201 - to a person

    kept = by_device(gateway, scopes, show=show)
    os.environ["MLFLOW_TRACKING_URI"] = kept.gateway
    os.environ["MLFLOW_TRACKING_AUTH"] = "countersign"
    print(f"Signed in at {kept.gateway}")  # noqa: T201 - to a person


def logout(gateway: str) -> bool:
    """End the login here and at the gateway; whether there was one.

    Raises:
        Unreachable: forgotten here, but the gateway does not answer, so that it holds there until it expires.
        UnsafeStore: the file of logins cannot be used.
    """
    from countersign_client.session import sign_out

    return sign_out(gateway)


def access_token(gateway: str) -> str:
    """A token that is good now; refreshed if need be.

    Raises:
        NotSignedIn: there is no login, or it has ended.
        Unreachable: the token is old and the gateway does not answer.
        UnsafeStore: the file of logins cannot be used.
    """
    from countersign_client.session import access_token as token_of

    return token_of(gateway)


def resolve(uri: str, *, gateway: str | None = None, workspace: str | None = None) -> Resolved:
    """Where the bytes of ``models:/name@alias`` are now. See ``resolving.resolve``."""
    from countersign_client.resolving import gateway_of_environment
    from countersign_client.resolving import resolve as resolve_at

    return resolve_at(gateway or gateway_of_environment(), uri, workspace=workspace)


def follow(uri: str, *, gateway: str | None = None, workspace: str | None = None) -> Iterator[Resolved]:
    """What ``models:/name@alias`` means now, and again whenever that changes; never ends. See ``resolving.follow``."""
    from countersign_client.resolving import follow as follow_at

    return follow_at(uri, gateway=gateway, workspace=workspace)


def pull(
    uri: str,
    folder: str | os.PathLike[str],
    *,
    gateway: str | None = None,
    workspace: str | None = None,
    version: str | None = None,
    force: bool = False,
) -> Pulled:
    """Download a version, verified, into a folder that is there as a whole or not at all. See ``pulling.pull``."""
    from countersign_client.pulling import pull as pull_to

    return pull_to(uri, folder, gateway=gateway, workspace=workspace, version=version, force=force)
