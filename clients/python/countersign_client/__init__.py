"""Signs in to a Countersign gateway and stays signed in: the three functions that notebooks and scripts call.

What they need is imported when they are called, so that the ``countersign`` command starts quickly.
"""

from __future__ import annotations

from collections.abc import Iterable

from countersign_client.errors import ClientError, NotSignedIn, Refused, Unreachable, UnsafeStore

__all__ = ["ClientError", "NotSignedIn", "Refused", "Unreachable", "UnsafeStore", "access_token", "login", "logout"]

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
